//! The kernel's side of virtual addresses, in network namespaces on one bridge: what is put, what expires, what
//! neighbours believe of the frames. Needs root, for the namespaces, and iproute2, setpriv and python3.

mod vip_kernel {
    pub mod addresses;
    pub mod bed;
    pub mod capabilities;
    pub mod changes;
    pub mod figures;
    pub mod frames;
    pub mod neighbours;
    pub mod sessions;
}
