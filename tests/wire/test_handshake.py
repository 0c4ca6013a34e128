"""The opening handshake of a WebSocket."""

import pytest

from iodine_aio.wire.handshake import accept_key, offers_upgrade, refusal_status


def handshake(**changes):
    """The env of the handshake in RFC 6455, 1.2; a change to None takes a key away."""
    env = {
        "REQUEST_METHOD": "GET",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_UPGRADE": "websocket",
        "HTTP_CONNECTION": "Upgrade",
        "HTTP_SEC_WEBSOCKET_KEY": "dGhlIHNhbXBsZSBub25jZQ==",
        "HTTP_SEC_WEBSOCKET_VERSION": "13",
        **changes,
    }
    return {key: value for key, value in env.items() if value is not None}


def test_accept_key_of_the_rfc():
    """The example of RFC 6455, section 1.3."""
    assert accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_handshake_of_the_rfc_is_one():
    """The example of RFC 6455, section 1.2."""
    assert refusal_status(handshake()) is None


@pytest.mark.parametrize(
    "connection", ["upgrade", "UPGRADE", "keep-alive, Upgrade", ",\tUpgrade ,"]
)
def test_connection_option_is_found_in_its_list(connection):
    """An "Upgrade" token, compared without case (RFC 6455, 4.2.1)."""
    assert offers_upgrade(handshake(HTTP_CONNECTION=connection))


@pytest.mark.parametrize("connection", [None, "", "keep-alive", "upgraded", "\x0bupgrade"])
def test_upgrade_without_connection_option_is_no_offer(connection):
    """The field was not meant for this hop (RFC 9110, 7.8)."""
    env = handshake(HTTP_CONNECTION=connection)

    assert not offers_upgrade(env)
    assert refusal_status(env) == 426


def test_connection_option_without_upgrade_is_no_offer():
    """There is nothing to change to (RFC 9110, 7.8)."""
    env = handshake(HTTP_UPGRADE=None)

    assert not offers_upgrade(env)
    assert refusal_status(env) == 426


def test_http10_offers_nothing():
    """Upgrade in an HTTP/1.0 request must be ignored (RFC 9110, 7.8)."""
    env = handshake(SERVER_PROTOCOL="HTTP/1.0")

    assert not offers_upgrade(env)
    assert refusal_status(env) == 426


@pytest.mark.parametrize("upgrade", ["WebSocket", "h2c, websocket", "websocket,"])
def test_websocket_is_found_in_its_list(upgrade):
    """The keyword is compared without case (RFC 6455, 4.2.1)."""
    assert refusal_status(handshake(HTTP_UPGRADE=upgrade)) is None


@pytest.mark.parametrize("upgrade", ["", "h2c", "websockets", "websocket/13"])
def test_offer_of_another_protocol_is_426(upgrade):
    """The Upgrade field must name websocket (RFC 6455, 4.2.1)."""
    assert refusal_status(handshake(HTTP_UPGRADE=upgrade)) == 426


@pytest.mark.parametrize("method", ["POST", "HEAD", "OPTIONS", "PUT"])
def test_handshake_is_a_get(method):
    """The handshake must be a GET (RFC 6455, 4.2.1)."""
    assert refusal_status(handshake(REQUEST_METHOD=method)) == 426


@pytest.mark.parametrize("version", [None, "", "8", "12", "14", "013", "13, 13", "13, 8", "+13"])
def test_other_version_is_426(version):
    """A version that is not 13 is told the one that is (RFC 6455, 4.2.2, 4.4)."""
    assert refusal_status(handshake(HTTP_SEC_WEBSOCKET_VERSION=version)) == 426


@pytest.mark.parametrize(
    "key",
    [
        None,
        "",
        "dGhlIHNhbXBsZSBub25jZQ",
        "dGhlIHNhbXBsZSBub25j",
        "dGhlIHNhbXBsZSBub25jZSE=",
        "dGhlIHNhbXBsZSBub25jZSEh",
        "dGhlIHNhbXBsZSBub25jZ===",
        "dGhlIHNhbXBsZSBub-5jZQ==",
        "dGhlIHNhbXBs SBub25jZQ==",
        "dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ==",
        "\x80\xff" * 12,
    ],
)
def test_key_that_is_not_16_bytes_is_400(key):
    """The key is base64 of 16 bytes (RFC 6455, 4.2.1; CVE-2026-42544)."""
    assert refusal_status(handshake(HTTP_SEC_WEBSOCKET_KEY=key)) == 400
