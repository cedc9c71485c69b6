//! Neighbour discovery frames of an address (RFC 4861, RFC 4862), as bytes.
