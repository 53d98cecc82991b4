"""What is news: changes of Services, slices and the Node, handed out once, and again if nothing came of them."""

from __future__ import annotations

from agent.kube.informer import Change, Key
from agent.proxy.decode import OwnedSlice, OwnNode
from agent.proxy.world import World
from rules.snapshot import EndpointSlice, Node, Service, ServiceName, Settings
from tests.harness.services import make_service

WEB, API = ServiceName("default", "web"), ServiceName("default", "api")


def service(name: str, vip: str = "10.96.0.10") -> Service:
    return make_service(name, vip=vip)[0]


def piece(name: str, *addresses: str) -> EndpointSlice:
    return make_service(name, *addresses)[1][0]


def put(world: World, made: Service, old: Service | None = None) -> None:
    world.take_service(Change(Key(*made.name), old, made))


def put_slice(world: World, owner: ServiceName | None, *addresses: str, was: OwnedSlice | None = None) -> OwnedSlice:
    owned = OwnedSlice(owner, piece("piece", *addresses), None)
    world.take_slice(Change(Key("default", "piece"), was, owned))
    return owned


def settled() -> World:
    """Two Services, one with endpoints; all of it taken."""
    world = World("here", Settings())
    put(world, service("web"))
    put(world, service("api", "10.96.0.11"))
    put_slice(world, WEB, "10.244.0.1")
    world.take_news()
    return world


def test_at_first_everything_is_news() -> None:
    world = World("here", Settings())
    assert world.has_news
    put(world, service("web"))
    news = world.take_news()
    assert news.changed is None
    assert set(news.snapshot.services) == {WEB}
    assert not world.has_news


def test_only_what_changed_is_handed_out() -> None:
    world = settled()
    put(world, service("api", "10.96.0.12"))
    news = world.take_news()
    assert news.changed == frozenset({API})
    assert set(news.snapshot.services) == {API}
    assert not news.snapshot.slices
    assert set(world.snapshot().services) == {WEB, API}
    assert world.take_news().changed == frozenset()


def test_a_deleted_service_is_news_without_being_there() -> None:
    world = settled()
    world.take_service(Change(Key(*WEB), service("web"), None))
    news = world.take_news()
    assert news.changed == frozenset({WEB})
    assert not news.snapshot.services
    assert not news.snapshot.slices
    assert not world.knows(WEB)


def test_a_changed_slice_brings_its_service_with_all_slices() -> None:
    world = settled()
    other = OwnedSlice(WEB, piece("other", "10.244.0.9"), None)
    world.take_slice(Change(Key("default", "other"), None, other))
    news = world.take_news()
    assert news.changed == frozenset({WEB})
    assert [e.address for s in news.snapshot.slices[WEB] for e in s.endpoints] == ["10.244.0.9", "10.244.0.1"]


def test_a_slice_that_moves_concerns_two_services() -> None:
    world = settled()
    was = put_slice(world, WEB, "10.244.0.2")
    world.take_news()
    put_slice(world, API, "10.244.0.2", was=was)
    news = world.take_news()
    assert news.changed == frozenset({WEB, API})
    assert set(news.snapshot.slices) == {API}


def test_news_given_back_is_news_again_together_with_what_came_meanwhile() -> None:
    world = settled()
    put(world, service("web", "10.96.0.20"))
    news = world.take_news()
    put(world, service("api", "10.96.0.21"))
    world.give_back(news)
    again = world.take_news()
    assert again.changed == frozenset({WEB, API})
    assert again.snapshot.services[WEB].cluster_ips == ("10.96.0.20",)
    world.give_back(again._replace(changed=None))
    assert world.take_news().changed is None


def test_a_node_that_changes_changes_everything_but_only_if_it_is_ours() -> None:
    world = settled()
    ours, other = (OwnNode(Node(name, ("192.0.2.9",)), eligible=True) for name in ("here", "elsewhere"))
    assert not world.take_node(Change(Key("", "elsewhere"), None, other))
    assert not world.has_news
    assert world.take_node(Change(Key("", "here"), None, ours))
    news = world.take_news()
    assert (news.changed, news.snapshot.node) == (None, ours.node)
    assert not world.take_node(Change(Key("", "here"), ours, ours))
    assert not world.take_node(Change(Key("", "here"), ours, None))  # gone, but we still run on it
    assert world.snapshot().node == ours.node
    assert not world.node_eligible
