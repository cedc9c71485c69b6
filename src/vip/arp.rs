//! ARP frames of an address (RFC 826, RFC 5227), as bytes.
