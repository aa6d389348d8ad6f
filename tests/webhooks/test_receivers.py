"""Which receivers may be reached: the form of their URLs, and their addresses."""

from __future__ import annotations

import asyncio
import ipaddress
import threading
from collections.abc import Sequence

import pytest

from jobs.webhooks import lookups
from jobs.webhooks.addresses import AddressRefused, Receivers
from jobs.webhooks.lookups import LookupsBusy
from jobs.webhooks.networks import AllowedNetworks, is_public, plain
from jobs.webhooks.urls import read_url


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("https://hooks.example.com", "https://hooks.example.com/"),
        ("https://hooks.example.com/a/b?token=1%202", "https://hooks.example.com/a/b?token=1%202"),
        ("HTTPS://Hooks.Example.COM:443/A", "https://hooks.example.com/A"),
        ("https://hooks.example.com.:8443/", "https://hooks.example.com:8443/"),
        ("https://bücher.example/ü", "https://xn--bcher-kva.example/%C3%BC"),
        ("http://192.0.2.7:80/", "http://192.0.2.7/"),
        ("https://[2001:DB8::1]:9000/x", "https://[2001:db8::1]:9000/x"),
        ("https://my_host/", "https://my_host/"),
    ],
)
def test_urls_are_stored_as_they_are_sent(text: str, read: str) -> None:
    assert str(read_url(text)) == read
    assert str(read_url(read)) == read


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("hooks.example.com", "https://"),
        ("ftp://hooks.example.com/", "https://"),
        ("https:///path", "host"),
        ("https://user@hooks.example.com/", "user or password"),
        ("https://user:secret@hooks.example.com/", "user or password"),
        ("https://hooks.example.com/#a", "fragment"),
        ("https://hooks.example.com/a b", "spaces"),
        ("https://hooks.example.com\\@127.0.0.1/", "backslashes"),
        ("https://hooks.example.com\n.evil/", "spaces"),
        ("https://127.1/", "address in full"),
        ("https://2130706433/", "address in full"),
        ("https://0x7f000001/", "address in full"),
        ("https://0177.0.0.1/", "URL"),
        ("https://127.0.0.0x1/", "address in full"),
        ("https://[fe80::1%25eth0]/", "host"),
        ("https://a..b/", "host"),
        ("https://-a.example/", "host"),
        ("https://☃☃.example/", "URL"),
        ("https://hooks.example.com:25/", "port 25"),
        ("https://hooks.example.com:0/", "port 0"),
        ("https://hooks.example.com:65536/", "port 65536"),
    ],
)
def test_other_urls_are_refused_with_a_reason(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_url(text)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.215.14", "2606:4700::1111", "2a00:1450:4001:81b::200e"])
def test_public_addresses(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "100.64.0.1",
        "100.100.100.200",
        "127.0.0.1",
        "127.255.255.254",
        "168.63.129.16",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "203.0.113.1",
        "224.0.0.1",
        "224.0.1.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:0:127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::808:808",
        "64:ff9b:1::1",
        "3fff::1",
        "4000::1",
        "5f00::1",
        "100::1",
        "2001::1",
        "2001:db8::1",
        "2002:7f00:1::",
        "2002:808:808::1",
        "2606:4700::5efe:a00:1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
    ],
)
def test_all_others_are_not_public(address: str) -> None:
    assert not is_public(plain(ipaddress.ip_address(address)))


def test_a_mapped_address_is_the_one_that_the_kernel_connects_to() -> None:
    assert str(plain(ipaddress.ip_address("::ffff:1.1.1.1"))) == "1.1.1.1"
    allowed = Receivers(AllowedNetworks.parse("10.0.0.0/8"))
    assert [str(found) for found in addresses(allowed, "http://[::ffff:10.1.2.3]/")] == ["10.1.2.3"]


def addresses(receivers: Receivers, url: str) -> Sequence[object]:
    return asyncio.run(receivers.addresses(read_url(url), "owner"))


def resolving(*found: str) -> Receivers:
    return Receivers(AllowedNetworks.parse("10.0.0.0/8, fd00::/8"), lambda _: found)


def test_every_address_of_a_name_must_be_allowed() -> None:
    assert len(addresses(resolving("1.1.1.1", "2606:4700::1111", "10.0.0.1", "fd00::1"), "https://a.example")) == 4
    for wrong in ("192.168.0.1", "::1", "169.254.169.254"):
        with pytest.raises(AddressRefused, match=r"an address of a\.example is not public") as refused:
            addresses(resolving("1.1.1.1", wrong), "https://a.example")
        assert wrong not in str(refused.value)


def test_http_only_goes_to_networks_of_the_operator() -> None:
    assert addresses(resolving("10.0.0.1"), "http://a.example")
    with pytest.raises(AddressRefused, match="use https"):
        addresses(resolving("10.0.0.1", "1.1.1.1"), "http://a.example")


def test_a_name_without_an_address_is_refused() -> None:
    def unknown(host: str) -> list[str]:
        raise OSError("Name or service not known")

    with pytest.raises(AddressRefused, match=r"a\.example has no address"):
        addresses(Receivers(AllowedNetworks(), unknown), "https://a.example")
    with pytest.raises(AddressRefused, match=r"a\.example has no address"):
        addresses(resolving(), "https://a.example")


def test_slow_names_of_one_owner_leave_threads_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after nobody waits for them any more: their threads are still busy."""
    monkeypatch.setattr(lookups, "RESOLVE_SECONDS", 0.3)
    monkeypatch.setattr(lookups, "THREADS", lookups.PER_OWNER + 1)
    over = threading.Event()

    def answer(host: str) -> list[str]:
        if host == "slow.example":
            over.wait(20)
        return ["1.1.1.1"]

    receivers = Receivers(AllowedNetworks(), answer)
    slow, quick = read_url("https://slow.example"), read_url("https://quick.example")

    async def look() -> None:
        many = [receivers.addresses(slow, "slow") for _ in range(lookups.PER_OWNER + 2)]
        failures = [type(each) for each in await asyncio.gather(*many, return_exceptions=True)]
        assert failures == [AddressRefused] * lookups.PER_OWNER + [LookupsBusy] * 2
        assert await receivers.addresses(quick, "other")
        with pytest.raises(LookupsBusy):
            await receivers.addresses(quick, "slow")
        with pytest.raises(AddressRefused):
            await receivers.addresses(slow, "another")
        with pytest.raises(LookupsBusy):
            await receivers.addresses(quick, "other")
        over.set()
        assert await receivers.addresses(quick, "slow")

    try:
        asyncio.run(look())
    finally:
        over.set()


def test_this_machine_is_refused_by_its_name_too() -> None:
    with pytest.raises(AddressRefused, match="not public"):
        addresses(Receivers(AllowedNetworks()), "https://localhost/")


@pytest.mark.parametrize("setting", ["10.0.0.0/33", "10.0.0.1/8", "localhost", "10.0.0.0/8;127.0.0.0/8"])
def test_networks_are_checked(setting: str) -> None:
    with pytest.raises(ValueError, match="is not a network"):
        AllowedNetworks.parse(setting)
