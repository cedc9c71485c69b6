//! Packet sockets: the address that binds one to an interface and an EtherType.
