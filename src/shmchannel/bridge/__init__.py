"""A channel over the network: a bridge relays a port to a port elsewhere. Needs ``shmchannel[bridge]``."""

try:
    import zmq  # noqa: F401  (here, so that the error tells what to install)
except ImportError as error:
    raise ImportError("shmchannel.bridge needs pyzmq: pip install 'shmchannel[bridge]'") from error

from .bridge import CLEAR, Bridge

__all__ = ["CLEAR", "Bridge"]
