"""A channel over the network: a bridge relays a port to one elsewhere. Needs ``shmchannel[bridge]``."""

try:
    import zmq  # noqa: F401  (so that it is this line that says what is missing)
except ImportError as error:
    raise ImportError("shmchannel.bridge needs pyzmq: pip install 'shmchannel[bridge]'") from error

from .bridge import CLEAR, Bridge

__all__ = ["CLEAR", "Bridge"]
