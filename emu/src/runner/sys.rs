//! System calls of tasks: from names to what the kernel takes.

use kernel_model::sched::TaskId;
use kernel_model::sys::{Arg, Param, SYSCALLS, SysCall};
use scenarios::leaf::{Data, Leaf as _, int_of, suggest};
use scenarios::schema::packet::HexBytes;
use scenarios::schema::{Name, play};
use scenarios::tree::{Kind, Member, Node};
use scenarios::{Finding, Scenario};

use super::{Run, RunError};

/// Numbers by name, alike on all architectures of the model (include/uapi/asm-generic).
#[rustfmt::skip]
const NUMBERS: &[(&str, u64)] = &[
    ("O_RDONLY", 0), ("O_WRONLY", 1), ("O_RDWR", 2), ("O_CREAT", 0o100), ("O_EXCL", 0o200),
    ("O_TRUNC", 0o1000), ("O_APPEND", 0o2000), ("AT_FDCWD", -100i64 as u64),
    ("SOL_IP", 0), ("SOL_SOCKET", 1), ("SOL_TCP", 6), ("SO_REUSEADDR", 2), ("SO_TYPE", 3),
    ("SO_SNDBUF", 7), ("SO_RCVBUF", 8), ("SO_KEEPALIVE", 9), ("SO_PRIORITY", 12),
    ("SO_RCVLOWAT", 18), ("SO_MARK", 36), ("SO_PROTOCOL", 38), ("SO_DOMAIN", 39), ("IP_TOS", 1),
    ("TCP_NODELAY", 1), ("TCP_KEEPIDLE", 4), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 6),
    ("TCP_SYNCNT", 7), ("TCP_USER_TIMEOUT", 18),
    ("S_IFCHR", 0o020_000), ("S_IFBLK", 0o060_000), ("S_IFREG", 0o100_000),
    ("AT_REMOVEDIR", 0x200), ("MSG_DONTWAIT", 0x40),
    ("PROT_NONE", 0), ("PROT_READ", 1), ("PROT_WRITE", 2), ("PROT_EXEC", 4),
    ("MAP_SHARED", 1), ("MAP_PRIVATE", 2), ("MAP_FIXED", 0x10), ("MAP_ANONYMOUS", 0x20),
    ("AF_UNIX", 1), ("AF_INET", 2), ("AF_INET6", 10), ("SOCK_STREAM", 1), ("SOCK_DGRAM", 2),
    ("SOCK_SEQPACKET", 5), ("SOCK_NONBLOCK", 0o4000), ("MSG_PEEK", 2), ("MSG_TRUNC", 0x20),
    ("MSG_WAITALL", 0x100), ("MSG_NOSIGNAL", 0x4000),
    ("SIGHUP", 1), ("SIGINT", 2), ("SIGQUIT", 3), ("SIGABRT", 6), ("SIGKILL", 9), ("SIGUSR1", 10),
    ("SIGSEGV", 11), ("SIGUSR2", 12), ("SIGPIPE", 13), ("SIGALRM", 14), ("SIGTERM", 15),
    ("SIGCHLD", 17), ("SIGCONT", 18), ("SIGSTOP", 19), ("SIGURG", 23),
    ("CLONE_VM", 0x100), ("CLONE_FS", 0x200), ("CLONE_FILES", 0x400), ("CLONE_THREAD", 0x1_0000),
];

const AF_UNIX: u64 = 1;
const AF_INET: u64 = 2;
const AF_INET6: u64 = 10;
/// `sizeof` of `sockaddr_un.sun_path`.
const SUN_PATH: usize = 108;

fn members(args: Option<&Data>) -> Result<&[Member], RunError> {
    match args.map(|d| (&d.node.kind, d.span())) {
        None => Ok(&[]),
        Some((Kind::Record(None, members), _)) => Ok(members),
        Some((Kind::Tuple(items), _)) if items.is_empty() => Ok(&[]),
        Some((_, span)) => {
            Err(RunError::input(span, "arguments are written by name, as in (fd: 3)"))
        }
    }
}

/// Arguments of a user function, in the order in which they are written.
pub(super) fn numbers(args: Option<&Data>) -> Result<Vec<u64>, RunError> {
    members(args)?.iter().map(|m| number(&m.value)).collect()
}

/// What a user function returns, 0 when nothing is said.
pub(super) fn value(given: Option<&Data>) -> Result<u64, RunError> {
    given.map_or(Ok(0), |d| number(&d.node))
}

/// A number, a name of one, or a list of them: flags.
fn number(node: &Node) -> Result<u64, RunError> {
    match &node.kind {
        Kind::Name(n) => NUMBERS.iter().find(|k| k.0 == n).map(|k| k.1).ok_or_else(|| {
            let finding = Finding::error(node.span, format!("unknown name {n}"));
            RunError::from(match suggest(n, NUMBERS.iter().map(|k| k.0)) {
                Some(near) => finding.hint(format!("did you mean {near}?")),
                None => finding,
            })
        }),
        Kind::List(items) => items.iter().try_fold(0, |all, n| Ok(all | number(n)?)),
        _ => int_of(node)
            .map(|v| v as u64)
            .ok_or_else(|| RunError::input(node.span, "a number was expected")),
    }
}

/// A parameter of a call by its name.
fn param(call: &Name, name: &str) -> Option<&'static Param> {
    let row = SYSCALLS.iter().find(|r| r.name == call.v)?;
    row.params.iter().find(|p| p.name() == name)
}

fn is_text(call: &Name, name: &str) -> bool {
    matches!(param(call, name), Some(Param::Text(_)))
}

fn is_addr(call: &Name, name: &str) -> bool {
    matches!(param(call, name), Some(Param::Addr(_)))
}

/// Text with its NUL, or bytes.
fn bytes(node: &Node) -> Result<Vec<u8>, RunError> {
    match &node.kind {
        Kind::Str(s) => Ok(s.bytes().chain([0]).collect()),
        Kind::Call(name, args) if name == "Hex" && args.len() == 1 => {
            Ok(HexBytes::from_node(&args[0])?.0)
        }
        _ => Err(RunError::input(node.span, "text or Hex(..) was expected")),
    }
}

/// Names of tasks that others clone: those do not begin by themselves.
pub(super) fn cloned(s: &Scenario) -> impl Iterator<Item = &str> {
    let ops = s.tasks.iter().flat_map(|(_, t)| &t.script);
    let args = ops.filter_map(|op| match op {
        play::Op::Sys { call, args: Some(args), .. } if call.v == "clone" => Some(args),
        _ => None,
    });
    args.filter_map(|a| members(Some(a)).ok()).flatten().filter_map(|m| match &m.value.kind {
        Kind::Str(name) if m.name == "task" => Some(name.as_str()),
        _ => None,
    })
}

impl Run<'_> {
    /// A system call by its name and arguments.
    pub(super) fn sys_call(&self, call: &Name, args: Option<&Data>) -> Result<SysCall, RunError> {
        let Some(row) = SYSCALLS.iter().position(|r| r.name == call.v) else {
            let known: Vec<&str> = SYSCALLS.iter().map(|r| r.name).collect();
            let finding = Finding::error(call.span, format!("the model has no call {}", call.v));
            return Err(RunError::from(match suggest(&call.v, known.iter().copied()) {
                Some(near) => finding.hint(format!("did you mean {near}?")),
                None => finding.hint(format!("known: {}", known.join(", "))),
            }));
        };
        let (params, given) = (SYSCALLS[row].params, members(args)?);
        for m in given {
            if !params.iter().any(|p| p.name() == m.name) {
                let names: Vec<&str> = params.iter().map(Param::name).collect();
                let message = format!("{} has no argument `{}`", call.v, m.name);
                let finding = Finding::error(m.name_span, message);
                return Err(finding.hint(format!("known: {}", names.join(", "))).into());
            }
        }
        let find = |name: &str| given.iter().find(|m| m.name == name).map(|m| &m.value);
        let args = params.iter().map(|p| self.sys_arg(call, p, &find));
        Ok(SysCall { row, args: args.collect::<Result<_, _>>()? })
    }

    fn sys_arg<'n>(
        &self,
        call: &Name,
        param: &Param,
        find: &dyn Fn(&str) -> Option<&'n Node>,
    ) -> Result<Arg, RunError> {
        let given = find(param.name());
        Ok(match (param, given) {
            (Param::Num(..), Some(node)) => Arg::Num(number(node)?),
            (Param::Num(_, default), None) => Arg::Num(*default),
            (Param::Text(_), Some(Node { kind: Kind::Name(n), .. })) if n == "NULL" => Arg::Num(0),
            (Param::Text(_), Some(node)) if int_of(node).is_some() => Arg::Num(number(node)?),
            (Param::Text(_), Some(node)) => Arg::Bytes(bytes(node)?),
            (Param::Text(name), None) => {
                return Err(RunError::input(call.span, format!("{} needs `{name}`", call.v)));
            }
            (Param::Room(_), Some(node)) => Arg::Num(number(node)?),
            (Param::Room(_), None) => Arg::Room(find("count").map_or(Ok(64), number)?.min(1 << 20)),
            (Param::Len(..), Some(node)) => Arg::Num(number(node)?),
            (Param::Len(_, of), None) if !is_text(call, of) => {
                let bytes = find(of).map(|n| match is_addr(call, of) {
                    true => self.sockaddr(n),
                    false => self.option_bytes(n),
                });
                Arg::Num(bytes.transpose()?.map_or(0, |b| b.len() as u64))
            }
            (Param::Len(_, of), None) => {
                // Without the NUL of a text.
                let len = match find(of) {
                    Some(Node { kind: Kind::Str(s), .. }) => s.len(),
                    Some(node) if int_of(node).is_none() => bytes(node)?.len(),
                    _ => 0,
                };
                Arg::Num(len as u64)
            }
            (Param::Addr(_), None) => Arg::Num(0),
            (Param::Addr(_), Some(node)) => Arg::Bytes(self.sockaddr(node)?),
            (Param::Ref(_, default), given) => {
                Arg::Bytes(self.int_bytes(given.map_or(Ok(u64::from(*default)), number)?))
            }
            (Param::Value(_), Some(node)) => Arg::Bytes(self.option_bytes(node)?),
            (Param::Value(name), None) => {
                return Err(RunError::input(call.span, format!("{} needs `{name}`", call.v)));
            }
            (Param::Task(_), Some(Node { kind: Kind::Str(s), span })) => {
                Arg::Task(self.task_id(s).ok_or_else(|| {
                    let finding = Finding::error(*span, format!("unknown task \"{s}\""));
                    let names = self.s.tasks.names();
                    let near = suggest(s, names.map(|n| n as &str));
                    RunError::from(match near {
                        Some(near) => finding.hint(format!("did you mean \"{near}\"?")),
                        None => finding,
                    })
                })?)
            }
            (Param::Task(_), Some(node)) => Arg::Num(number(node)?),
            (Param::Task(name), None) => {
                return Err(RunError::input(call.span, format!("{} needs `{name}`", call.v)));
            }
        })
    }

    /// An `int` in the task's memory.
    fn int_bytes(&self, value: u64) -> Vec<u8> {
        let mut out = vec![0; 4];
        super::data::put_int(&mut out, value, self.machine.arch().endian());
        out
    }

    /// A number as an `int`, text without a NUL, or bytes.
    fn option_bytes(&self, node: &Node) -> Result<Vec<u8>, RunError> {
        match &node.kind {
            Kind::Str(s) => Ok(s.bytes().collect()),
            Kind::Call(..) => bytes(node),
            _ => Ok(self.int_bytes(number(node)?)),
        }
    }

    /// `struct sockaddr_in` of `"10.0.0.1:80"`, `struct sockaddr_in6` of `"[fd00::1]:80"`,
    /// `struct sockaddr_un` of `"/tmp/x"`, of `"@x"` for an abstract name, and of `""` for none.
    fn sockaddr(&self, node: &Node) -> Result<Vec<u8>, RunError> {
        let text = if let Kind::Str(s) = &node.kind { s.as_str() } else { "" };
        let name = match text.strip_prefix('@') {
            Some(name) => Some(format!("\0{name}")),
            None if matches!(&node.kind, Kind::Str(s) if s.is_empty()) => Some(String::new()),
            None => text.starts_with('/').then(|| format!("{text}\0")),
        };
        if let Some(name) = name {
            if name.len() > SUN_PATH {
                let message = format!("sun_path has {SUN_PATH} bytes, this name {}", name.len());
                return Err(Finding::error(node.span, message).into());
            }
            let mut out = vec![0; 2];
            super::data::put_int(&mut out, AF_UNIX, self.machine.arch().endian());
            out.extend(name.bytes());
            return Ok(out);
        }
        let Ok(at) = text.parse::<std::net::SocketAddr>() else {
            let finding =
                Finding::error(node.span, "an address with a port or a name was expected");
            let hint = "write \"10.0.0.1:80\", \"[fd00::1]:80\", \"/tmp/x\" or \"@abstract\"";
            return Err(finding.hint(hint).into());
        };
        let (family, len) = if at.is_ipv4() { (AF_INET, 16) } else { (AF_INET6, 28) };
        let mut out = vec![0; len];
        super::data::put_int(&mut out[..2], family, self.machine.arch().endian());
        out[2..4].copy_from_slice(&at.port().to_be_bytes());
        match at.ip() {
            std::net::IpAddr::V4(ip) => out[4..8].copy_from_slice(&ip.octets()),
            std::net::IpAddr::V6(ip) => out[8..24].copy_from_slice(&ip.octets()),
        }
        Ok(out)
    }

    /// The number that a task has or will have: tasks are added in file order.
    fn task_id(&self, wanted: &str) -> Option<TaskId> {
        let mut first = 0;
        for (name, task) in self.s.tasks.iter() {
            if name.v == wanted {
                return Some(TaskId(first));
            }
            if let Some(n) = wanted.strip_prefix(&format!("{}.", name.v)) {
                return n
                    .parse()
                    .ok()
                    .filter(|n| *n < task.count.v)
                    .map(|n: u32| TaskId(first + n));
            }
            first += task.count.v;
        }
        None
    }
}
