//! Nouns shared by everything: what a member, a view, a service and a reason are.
//! Nothing here does IO, reads a clock or draws a random number.

pub mod address;
pub mod check;
pub mod lsn;
pub mod member;
pub mod reason;
pub mod rest;
pub mod service;
pub mod splice;
pub mod view;
pub mod vip;

pub use address::{ApiAddress, Cidr, HostPort, ListenAddress};
pub use check::{AdminState, CheckOutcome, CheckSpec, CheckStatus, Expect, Observe, OnError, Order, OrdersFrom};
pub use lsn::{Lsn, Timeline};
pub use member::{MemberFacts, MemberName, Tags};
pub use reason::Reason;
pub use rest::{PortOutcome, ProbeOutcome, RestAnswer, RestRole};
pub use service::{
    Balance, CheckTiming, CloseOnDown, ClusterSpec, Filter, HoldSpec, OnDcsLoss, QueueSpec, RateSpec, Role,
    ServiceName, ServiceSpec, SessionLog, StaticMember, Trust,
};
pub use splice::{Splice, SpliceSnapshot};
pub use view::{ClusterSettings, ClusterView, FailoverRequest, KeyProblem, LeaderKey};
pub use vip::{
    Mac, VIP_LEASE_DEFAULT, VIP_LEASE_MARGIN, VIP_LEASE_MIN, VIP_PROTOCOL, VipAddress, VipClaim, VipEntry, VipLink,
    VipMark, VipOnDcsLoss, VipOnExit, VipRight, VipSpec,
};
