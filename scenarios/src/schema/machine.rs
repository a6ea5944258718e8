//! `machine`, `objects` and `attach`.

use super::{Name, Names};
use crate::leaf::{Bytes, Data, Leaf, Mac, Time};
use crate::names;
use crate::span::Spanned;
use crate::span::{Finding, refuse};
use crate::tree::Kind;
use serde::Deserialize;
use serde::de::Deserializer;
use std::net::{IpAddr, SocketAddr};

names! {
    /// An architecture.
    pub enum ArchName as "an architecture" {
        /// x86-64.
        X86_64 = "x86_64",
        /// AArch64.
        Arm64 = "arm64",
        /// RV64.
        Riscv64 = "riscv64",
        /// z/Architecture.
        S390x = "s390x",
    }
}

names! {
    /// What a route does with a packet.
    #[derive(Default)]
    pub enum RouteKind as "a kind of route" {
        /// Sends it on.
        #[default]
        Unicast = "Unicast",
        /// It is for this machine.
        Local = "Local",
        /// Drops it without a word.
        Blackhole = "Blackhole",
        /// Drops it as unreachable.
        Unreachable = "Unreachable",
        /// Drops it as prohibited.
        Prohibit = "Prohibit",
    }
}

names! {
    /// How frames are spread over the receive queues.
    pub enum Rss as "a way to spread frames" {
        /// The Toeplitz hash of addresses and ports, as hardware does.
        Toeplitz = "Toeplitz",
        /// One queue after the other.
        RoundRobin = "RoundRobin",
        /// Everything on queue 0.
        Off = "Off",
    }
}

/// The modelled machine.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Machine {
    /// Architectures to run on.
    pub archs: Vec<Spanned<ArchName>>,
    /// Number of CPUs.
    pub cpus: Spanned<u32>,
    /// Cache domains.
    pub llcs: Spanned<u32>,
    /// Guest memory.
    pub memory: Spanned<Bytes>,
    /// Boot time of the virtual clock.
    pub clock: Time,
    /// Preempt after so much.
    pub quantum: Option<Spanned<Time>>,
    /// The run ends here.
    pub until: Spanned<Time>,
    /// Limits after which a program is cancelled.
    pub watchdog: Option<Watchdog>,
    /// Network interfaces by name.
    pub nics: Names<Nic>,
    /// Routes; a machine with any forwards.
    pub routes: Vec<Route>,
    /// Link-layer addresses of neighbours: those that are not here do not answer.
    pub neighbours: Vec<Neighbour>,
    /// Sockets that look-ups of programs find.
    pub sockets: Vec<Socket>,
    /// How long an RCU grace period may take before it is told of; "21s" when left out.
    pub rcu_stall: Option<Spanned<Time>>,
    /// `memory.max` of the topmost control group, where maps are charged.
    pub memcg: Option<Spanned<Bytes>>,
    /// `memory.max` of other control groups, by path.
    pub memory_max: Names<Spanned<Bytes>>,
    /// Elements and objects of programs are freed after their grace period and not kept for
    /// reuse: stale pointers into them are found.
    pub strict_free: bool,
    /// Feature level such as "6.12"; newest when left out.
    pub kernel: Option<Spanned<String>>,
}

impl Default for Machine {
    fn default() -> Self {
        use ArchName::{Arm64, Riscv64, S390x, X86_64};
        Machine {
            archs: [X86_64, Arm64, Riscv64, S390x].map(Spanned::nowhere).to_vec(),
            cpus: Spanned::nowhere(1),
            llcs: Spanned::nowhere(1),
            memory: Spanned::nowhere(Bytes { n: 64 << 20 }),
            clock: Time::default(),
            quantum: None,
            until: Spanned::nowhere(Time { ns: 1_000_000_000 }),
            watchdog: None,
            nics: Names::default(),
            routes: Vec::new(),
            neighbours: Vec::new(),
            sockets: Vec::new(),
            rcu_stall: None,
            memcg: None,
            memory_max: Names::default(),
            strict_free: false,
            kernel: None,
        }
    }
}

/// `watchdog: (soft, hard, strikes)`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Watchdog {
    /// A report is made.
    pub soft: Spanned<Time>,
    /// The program is cancelled.
    pub hard: Spanned<Time>,
    /// Cancellations until it is detached.
    #[serde(default = "three")]
    pub strikes: u32,
}

fn three() -> u32 {
    3
}

/// A network interface.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Nic {
    /// Receive (and transmit) queues.
    pub queues: Spanned<u32>,
    /// Descriptors of a ring.
    pub ring: Spanned<u32>,
    /// Maximal transmission unit.
    pub mtu: Spanned<u32>,
    /// Ethernet address; `02:00:00:00:00:01` and up by order.
    pub mac: Option<Mac>,
    /// Its IP address.
    pub ip: Option<Ip>,
    /// The nic at the other end of the cable.
    pub peer: Option<Name>,
    /// How frames are spread over queues.
    pub rss: Rss,
    /// CPU of each queue's interrupt; queue modulo CPUs when left out.
    pub irqs: Vec<Spanned<u32>>,
    /// Bytes of a receive buffer: longer frames become fragments.
    pub rx_frag: Option<Bytes>,
}

impl Default for Nic {
    fn default() -> Self {
        Nic {
            queues: Spanned::nowhere(1),
            ring: Spanned::nowhere(256),
            mtu: Spanned::nowhere(1500),
            mac: None,
            ip: None,
            peer: None,
            rss: Rss::Toeplitz,
            irqs: Vec::new(),
            rx_frag: None,
        }
    }
}

/// `(to: "10.1.0.0/16", nic: "eth1", via: "10.0.0.2")`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Destination with the length of its prefix.
    pub to: Spanned<Prefix>,
    /// Where packets leave; kinds that drop need none.
    #[serde(default)]
    pub nic: Option<Name>,
    /// Gateway.
    #[serde(default)]
    pub via: Option<Ip>,
    /// Preferred source address.
    #[serde(default)]
    pub src: Option<Ip>,
    /// Priority: of routes with one prefix the lowest counts.
    #[serde(default)]
    pub metric: u32,
    /// Path MTU.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// What becomes of packets.
    #[serde(default)]
    pub kind: RouteKind,
    /// Table number, 254 when left out.
    #[serde(default)]
    pub table: Option<u32>,
}

/// `(ip: "10.0.0.2", nic: "eth1", mac: "02:00:00:00:00:09")`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Neighbour {
    /// Address.
    pub ip: Ip,
    /// Device behind which it is.
    pub nic: Name,
    /// Link-layer address.
    pub mac: Mac,
}

names! {
    /// Protocol of a socket.
    pub enum Protocol as "a protocol" {
        /// TCP.
        Tcp = "Tcp",
        /// UDP.
        Udp = "Udp",
    }
}

/// `(protocol: Tcp, local: "10.0.0.1:80")`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Socket {
    /// Protocol.
    pub protocol: Protocol,
    /// Own address and port.
    pub local: Spanned<End>,
    /// The other end; without one TCP listens and UDP takes datagrams of all.
    #[serde(default)]
    pub remote: Option<End>,
    /// The only device it takes packets from.
    #[serde(default)]
    pub nic: Option<Name>,
    /// `sk_mark`.
    #[serde(default)]
    pub mark: u32,
    /// Path of the cgroup in which it was made; the root when left out.
    #[serde(default)]
    pub cgroup: Option<Name>,
}

/// An address with a port: `10.0.0.1:80`, `[fd00::1]:80`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End(pub SocketAddr);

impl Leaf for End {
    fn from_node(node: &crate::tree::Node) -> Result<Self, Finding> {
        let text = String::from_node(node)?;
        text.parse().map(End).map_err(|_| {
            Finding::error(node.span, format!("\"{text}\" is not an address with a port"))
        })
    }
}

impl<'de> Deserialize<'de> for End {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        crate::span::leaf(d).map(|(v, _)| v)
    }
}

/// An address and how many of its bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// First address.
    pub ip: IpAddr,
    /// Bits.
    pub bits: u8,
}

impl Leaf for Prefix {
    fn from_node(node: &crate::tree::Node) -> Result<Self, Finding> {
        let text = String::from_node(node)?;
        let parts = text.split_once('/').and_then(|(ip, n)| Some((ip.parse().ok()?, n)));
        let prefix = parts.and_then(|(ip, n): (IpAddr, &str)| {
            let bits = n.parse().ok().filter(|b| *b <= if ip.is_ipv4() { 32 } else { 128 })?;
            Some(Prefix { ip, bits })
        });
        prefix.ok_or_else(|| {
            let message = format!("\"{text}\" is not an address with a prefix length");
            Finding::error(node.span, message)
        })
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        crate::span::leaf(d).map(|(v, _)| v)
    }
}

/// An IPv4 or IPv6 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip(pub IpAddr);

impl Leaf for Ip {
    fn from_node(node: &crate::tree::Node) -> Result<Self, Finding> {
        let text = String::from_node(node)?;
        text.parse()
            .map(Ip)
            .map_err(|_| Finding::error(node.span, format!("\"{text}\" is not an IP address")))
    }
}

impl<'de> Deserialize<'de> for Ip {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        crate::span::leaf(d).map(|(v, _)| v)
    }
}

/// What is loaded.
#[derive(Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Object {
    /// `.bpf.c` (both byte orders are built) or `.bpf.o` (with its twin).
    pub file: Option<Name>,
    /// Assembler text.
    pub asm: Option<Spanned<String>>,
    /// Globals set before load.
    pub globals: Names<Data>,
    /// First contents of maps, pairs of key and value.
    pub maps: Names<Vec<(Data, Data)>>,
    /// `max_entries` by map.
    pub resize: Names<Spanned<u32>>,
    /// Kernel configuration values by name.
    pub kconfig: Names<Data>,
    /// Programs not to load.
    pub skip: Vec<Name>,
    /// Control group of the process that loads it, which pays for its maps.
    pub cgroup: Option<Name>,
}

names! {
    /// Where the XDP program runs.
    pub enum XdpMode as "an XDP mode" {
        /// In the driver.
        Native = "Native",
        /// On the sk_buff.
        Generic = "Generic",
    }
}

names! {
    /// Direction of a tc hook.
    pub enum Dir as "a direction" {
        /// Frames that arrive.
        Ingress = "Ingress",
        /// Frames that leave.
        Egress = "Egress",
    }
}

/// Place among the programs of a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Before all others.
    First,
    /// After all others.
    Last,
    /// Just before that program.
    Before(Name),
    /// Just after that program.
    After(Name),
}

impl Leaf for Order {
    fn from_node(node: &crate::tree::Node) -> Result<Self, Finding> {
        let name = |args: &[crate::tree::Node]| match args {
            [one] => String::from_node(one).map(|v| Spanned { v, span: one.span }),
            _ => Err(Finding::error(node.span, "one program name belongs here")),
        };
        match &node.kind {
            Kind::Name(n) if n == "First" => Ok(Order::First),
            Kind::Name(n) if n == "Last" => Ok(Order::Last),
            Kind::Call(n, args) if n == "Before" => name(args).map(Order::Before),
            Kind::Call(n, args) if n == "After" => name(args).map(Order::After),
            _ => Err(Finding::error(
                node.span,
                format!(
                    "First, Last, Before(\"p\") or After(\"p\") was expected, found {}",
                    node.describe()
                ),
            )),
        }
    }
}

impl<'de> Deserialize<'de> for Order {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        crate::span::leaf(d).map(|(v, _)| v)
    }
}

fn last() -> Order {
    Order::Last
}

names! {
    /// How programs of a cgroup go together with those of cgroups below it.
    pub enum CgroupMode as "a mode of a cgroup" {
        /// All of them run (`BPF_F_ALLOW_MULTI`, as links do).
        Multi = "Multi",
        /// One program, which one of a cgroup below replaces there (`BPF_F_ALLOW_OVERRIDE`).
        Override = "Override",
        /// One program; cgroups below may have none.
        Alone = "Alone",
    }
}

fn multi() -> CgroupMode {
    CgroupMode::Multi
}

fn native() -> XdpMode {
    XdpMode::Native
}

/// How a program is attached.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub enum Attach {
    /// As its section name says.
    Auto {
        /// Program.
        prog: Name,
    },
    /// On a nic, before the sk_buff exists.
    Xdp {
        /// Program.
        prog: Name,
        /// Interface.
        nic: Name,
        /// Native or generic.
        #[serde(default = "native")]
        mode: XdpMode,
        /// The program was loaded for frames of several buffers.
        #[serde(default)]
        frags: bool,
    },
    /// tcx on a nic.
    Tc {
        /// Program.
        prog: Name,
        /// Interface.
        nic: Name,
        /// Direction.
        dir: Dir,
        /// Place among the others.
        #[serde(default = "last")]
        order: Order,
    },
    /// A socket filter: on a packet socket of that nic, or on a task's descriptor.
    Socket {
        /// Program.
        prog: Name,
        /// Interface.
        #[serde(default)]
        nic: Option<Name>,
        /// Task.
        #[serde(default)]
        task: Option<Name>,
        /// Its descriptor.
        #[serde(default)]
        fd: Option<u32>,
    },
    /// On a cgroup.
    Cgroup {
        /// Program.
        prog: Name,
        /// Path.
        cgroup: Name,
        /// What cgroups below it may do.
        #[serde(default = "multi")]
        mode: CgroupMode,
        /// Place among the others of this cgroup.
        #[serde(default = "last")]
        order: Order,
        /// It runs before the programs of cgroups below (`BPF_F_PREORDER`).
        #[serde(default)]
        preorder: bool,
        /// The program whose place it takes (`BPF_F_REPLACE`).
        #[serde(default)]
        replace: Option<Name>,
    },
    /// On a user function of a task.
    Uprobe {
        /// Program.
        prog: Name,
        /// Task.
        task: Name,
        /// Function.
        symbol: Name,
        /// At its return.
        #[serde(default)]
        ret: bool,
    },
    /// By one link on several user functions of a task; at their return as the section says.
    UprobeMulti {
        /// Program.
        prog: Name,
        /// Task.
        task: Name,
        /// Functions.
        symbols: Vec<Name>,
        /// What `bpf_get_attach_cookie` gives at each of them.
        #[serde(default)]
        cookies: Vec<Spanned<u64>>,
        /// Only in the process of this task, one of that name.
        #[serde(default)]
        only: Option<Name>,
    },
    /// On a perf event: runs in NMI.
    PerfEvent {
        /// Program.
        prog: Name,
        /// Event: `cycles` or `instructions`, which are the same here.
        event: Name,
        /// An NMI after so many on a CPU; only `Nmi` actions and faults when left out.
        #[serde(default)]
        period: Option<u64>,
    },
    /// Registers a struct_ops map.
    StructOps {
        /// Map.
        map: Name,
    },
    /// A qdisc made of a struct_ops map.
    Qdisc {
        /// Map.
        map: Name,
        /// Interface.
        nic: Name,
    },
}

impl Attach {
    /// The program named, if the form names one.
    #[must_use]
    pub fn prog(&self) -> Option<&Name> {
        match self {
            Attach::Auto { prog }
            | Attach::Xdp { prog, .. }
            | Attach::Tc { prog, .. }
            | Attach::Socket { prog, .. }
            | Attach::Cgroup { prog, .. }
            | Attach::Uprobe { prog, .. }
            | Attach::UprobeMulti { prog, .. }
            | Attach::PerfEvent { prog, .. } => Some(prog),
            Attach::StructOps { .. } | Attach::Qdisc { .. } => None,
        }
    }

    /// The nic named, if the form names one.
    #[must_use]
    pub fn nic(&self) -> Option<&Name> {
        match self {
            Attach::Xdp { nic, .. } | Attach::Tc { nic, .. } | Attach::Qdisc { nic, .. } => {
                Some(nic)
            }
            Attach::Socket { nic, .. } => nic.as_ref(),
            Attach::Auto { .. }
            | Attach::Cgroup { .. }
            | Attach::Uprobe { .. }
            | Attach::UprobeMulti { .. }
            | Attach::PerfEvent { .. }
            | Attach::StructOps { .. } => None,
        }
    }
}

/// A list of CPUs, or `all`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Cpus {
    /// Every CPU.
    #[default]
    All,
    /// These.
    List(Vec<Spanned<u32>>),
}

impl<'de> Deserialize<'de> for Cpus {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let (data, span) = crate::span::leaf::<Data, D>(d)?;
        match &data.node.kind {
            Kind::Name(n) if n == "all" => Ok(Cpus::All),
            Kind::List(items) => items
                .iter()
                .map(|n| u32::from_node(n).map(|v| Spanned { v, span: n.span }))
                .collect::<Result<Vec<_>, _>>()
                .map(Cpus::List)
                .map_err(refuse),
            _ => Err(refuse(Finding::error(span, "all or a list of CPUs was expected"))),
        }
    }
}
