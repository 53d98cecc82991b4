"""Programs that answer where well-known images would: ``python -S -E -s -B <this folder> NAME [ARGUMENT...]``.

They run in containers on the host's root, with any Python 3.10 or later and no packages; hence only the standard
library, and only relative imports: there this folder is a package of its own, at ``/podwire/standins``.
"""
