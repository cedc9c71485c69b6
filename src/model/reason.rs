//! Why something waits, changed or ended: one vocabulary for logs, metrics, status and clients.

use std::fmt;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident => $word:literal, $sentence:literal;)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)*];

            /// The word used in logs, metric labels and the API.
            pub fn as_str(self) -> &'static str {
                match self { $(Reason::$name => $word,)* }
            }

            /// The same for a person.
            pub fn sentence(self) -> &'static str {
                match self { $(Reason::$name => $sentence,)* }
            }
        }
    };
}

reasons! {
    // A write service waits, or opened.
    Starting => "starting", "no view of the cluster yet";
    LeaderProven => "leader_proven", "the leader key names it and it is out of recovery";
    LeaderUnproven => "leader_unproven", "the leader has not shown yet that it accepts writes";
    NoLeaderKey => "no_leader_key", "there is no leader key";
    LeaderUnknown => "leader_unknown", "the leader key names a member without an address";
    PlannedSwitchover => "planned_switchover", "a switchover away from the leader was requested";
    BelowTimelineMark => "below_timeline_mark", "its timeline is older than one a leader already proved";
    OtherSystem => "other_system", "its system identifier is not this cluster's";
    DcsLost => "dcs_lost", "the DCS cannot be read and the leader does not vouch for itself";
    DcsStale => "dcs_stale", "no read was answered for 2 s; what follows rests on what was known";
    DcsReplaced => "dcs_replaced", "the DCS went back in time or is another one; the leader must prove itself again";
    OtherClaims => "other_claims", "another member claims the lead";
    FailsafeActive => "failsafe_active", "the leader key is gone and the leader's failsafe mode is active";
    Unconfirmed => "unconfirmed", "what is known of the leader is too old to open new sessions on";
    Paused => "paused", "the leader key is gone, the cluster is paused and no other member is out of recovery";
    ServedByRest => "served_by_rest", "the DCS cannot be read; the leader's REST API vouches for it";
    // A member's proof was withdrawn, or its check failed.
    InRecovery => "in_recovery", "it is in recovery";
    NotWritable => "not_writable", "its REST API does not show that it is out of recovery";
    ConnectRefused => "connect_refused", "a client's connect was refused";
    ConnectTimedOut => "connect_timed_out", "a client's connect timed out";
    ConnectFailed => "connect_failed", "a client's connect failed";
    StartupEof => "startup_eof", "it closed a connection before authentication";
    StartupRejected => "startup_rejected", "it answered 57P03 before authentication";
    ServerReset => "server_reset", "it reset an established session";
    RestRefused => "rest_refused", "its REST API refuses connections";
    RestTimedOut => "rest_timed_out", "its REST API does not answer in time";
    RestUnreachable => "rest_unreachable", "its REST API cannot be reached";
    RestGarbled => "rest_garbled", "its REST API answers something that is not Patroni's";
    PortRefused => "port_refused", "its PostgreSQL port refuses connections";
    PortSilent => "port_silent", "its PostgreSQL port does not answer";
    CheckerLate => "checker_late", "the router itself was late, which says nothing about the member";
    CheckPassed => "check_passed", "its check passed";
    Rising => "rising", "its checks pass again, and more of them are wanted";
    NotChecked => "not_checked", "it has not been checked yet";
    MemberGone => "member_gone", "its member key is gone and its checks fail";
    CheckStatus => "check_status", "its check answers another status than expected";
    RestTls => "rest_tls", "TLS with its REST API fails";
    ErrorLimit => "error_limit", "too many connects of clients failed in a row";
    // A target of a service is not used.
    NotMyRole => "not_my_role", "healthy, in another role than the service wants";
    NoLoadBalance => "noloadbalance", "tagged noloadbalance";
    Offline => "offline", "flagged offline";
    Lagging => "lagging", "its replay lag is above max_lag";
    NotStreaming => "not_streaming", "it is not streaming";
    NotSelected => "not_selected", "not one of the members that the service names";
    TagMismatch => "tag_mismatch", "without a tag that the service wants";
    Drained => "drained", "an operator drains it, or its weight is 0";
    Maintenance => "maintenance", "an operator put it into maintenance";
    NotRunning => "not_running", "PostgreSQL is not running there";
    NoAddress => "no_address", "its address is not known";
    BackupUnused => "backup_unused", "a backup, and better targets are up";
    InService => "in_service", "takes new sessions";
    NoTarget => "no_target", "no member is fit for this service";
    // A session ended.
    LeaderMoved => "leader_moved", "the leader key names another member";
    LeaseEnded => "lease_ended", "the leader's lease ran out and nothing vouches for it";
    MemberDown => "member_down", "the member is down";
    ClientClosed => "client_closed", "the client closed";
    ServerClosed => "server_closed", "the server closed";
    ClientError => "client_error", "the client's connection broke";
    ServerError => "server_error", "the server's connection broke";
    HoldExpired => "hold_expired", "no target came within the hold time";
    HoldFull => "hold_full", "too many clients are waiting already";
    TargetsFull => "targets_full", "every target has as many sessions as maxconn allows";
    QueueFull => "queue_full", "too many clients are waiting for a free place already";
    QueueExpired => "queue_expired", "no place became free within the queue's time";
    ServiceRemoved => "service_removed", "the configuration has no such service any more";
    HoldOff => "hold_off", "holding is off";
    RetriesExhausted => "retries_exhausted", "every attempt to connect failed";
    StartupTimedOut => "startup_timed_out", "the client did not finish its startup packet in time";
    StartupMalformed => "startup_malformed", "the client did not speak PostgreSQL's startup protocol";
    NoDescriptors => "no_descriptors", "the router is out of file descriptors, ports or memory";
    NotAllowed => "not_allowed", "its address is not on the service's allow list";
    RateLimited => "rate_limited", "its address connects more often than the service allows";
    CancelLimited => "cancel_limited", "too many cancel requests at a time, or of its address";
    CancelForwarded => "cancel_forwarded", "a cancel request was passed on";
    // A virtual address is claimed, waits or goes.
    RoleHeld => "role_held", "its member has the role that it follows";
    RoleElsewhere => "role_elsewhere", "the role that it follows is another member's";
    RoleVacant => "role_vacant", "nobody has the role that it follows";
    MemberNotHere => "member_not_here", "no member of the cluster has its address on this host";
    MarkElsewhere => "mark_elsewhere", "another member has taken it, as the DCS says";
    MarkLost => "mark_lost", "our mark in the DCS is gone";
    Probing => "probing", "asking whether another host still has it";
    Occupied => "occupied", "another host still answers for it";
    LeaseUnknown => "lease_unknown", "how long its leader's lease lasts is being asked";
    LinkMissing => "link_missing", "its interface does not exist";
    LinkDown => "link_down", "its interface is down or has no carrier";
    ForeignAddress => "foreign_address", "the address is there already and is not ours to touch";
    VouchedByPatroni => "vouched_by_patroni", "the DCS cannot be read; the local Patroni vouches for its member";
    Unfenced => "unfenced", "the DCS cannot be read and the policy is to hold whatever happens elsewhere";
    Conflict => "conflict", "another host answers for it and nothing fresh says that it is ours";
    MachineSlept => "machine_slept", "the machine was suspended, so everything known is old";
    NoRight => "no_right", "the kernel does not let this process do it";
    VipReleased => "vip_released", "the virtual address that the client came by has left this host";
    Shutdown => "shutdown", "the router is shutting down";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
