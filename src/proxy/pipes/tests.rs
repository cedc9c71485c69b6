//! Bytes through real sockets.
