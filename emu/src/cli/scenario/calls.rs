//! Programs of control groups and programs that watch tasks: the system calls of a task that make
//! them run.

use bpf::uapi::{AttachType, ProgType};

/// The group of the programs and of the task.
pub(super) const GROUP: &str = "/app";

/// What the name of a place that is watched may contain, and what a task does to come there.
type Watched = (&'static [&'static str], fn(&mut Calls));

/// The names of system calls, tracepoints, LSM hooks and functions of the kernel.
const WATCHED: &[Watched] = &[
    (&["open", "file", "read", "write", "close", "sys_enter", "sys_exit"], |c| c.files = true),
    (&["connect", "bind", "listen", "accept", "shutdown", "sock", "tcp", "inet"], |c| {
        c.streams[0] = true;
    }),
    (&["send", "recv", "udp", "sock"], |c| c.datagrams[0] = true),
    (&["exec", "bprm"], |c| c.runs = true),
    (&["fork", "clone", "newtask", "task_alloc", "process_exit", "exit_group"], |c| c.forks = true),
    (&["mmap", "vma"], |c| c.maps = true),
    (&["sched", "switch", "wakeup", "sleep"], |c| c.sleeps = true),
    (&["kill", "signal"], |c| (c.forks, c.kills) = (true, true)),
    (&["mkdir", "unlink"], |c| c.folders = true),
];

/// Calls that are needed, by what makes a program run.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "a set of kinds of calls")]
pub(super) struct Calls {
    /// A program is attached to the group.
    group: bool,
    runs: bool,
    forks: bool,
    kills: bool,
    maps: bool,
    sleeps: bool,
    folders: bool,
    files: bool,
    devices: bool,
    variables: bool,
    /// Connections and datagrams, of IPv4, IPv6 and AF_UNIX.
    streams: [bool; 3],
    datagrams: [bool; 3],
}

/// The addresses of a family: of connections, of datagrams.
const FAMILIES: [(&str, [&str; 2]); 3] = [
    ("AF_INET", ["127.0.0.1:8000", "127.0.0.1:5300"]),
    ("AF_INET6", ["[::1]:8000", "[::1]:5300"]),
    ("AF_UNIX", ["@stream", "@datagrams"]),
];

impl Calls {
    /// Notes a program that is attached to the group. False when it is for something else.
    pub(super) fn add(&mut self, kind: ProgType, at: Option<AttachType>) -> bool {
        use AttachType as A;
        match (kind, at) {
            (ProgType::CgroupSkb, _) => self.datagrams[0] = true,
            (ProgType::CgroupDevice, _) => self.devices = true,
            (ProgType::CgroupSysctl, _) => self.variables = true,
            (ProgType::CgroupSock, Some(A::CgroupInet6PostBind)) => self.streams[1] = true,
            (ProgType::CgroupSock | ProgType::CgroupSockopt | ProgType::SockOps, _) => {
                self.streams[0] = true;
            }
            (ProgType::Lsm, Some(A::LsmCgroup)) => (self.files, self.streams[0]) = (true, true),
            (ProgType::CgroupSockAddr, Some(at)) => match at {
                A::CgroupInet4Bind
                | A::CgroupInet4Connect
                | A::CgroupInet4Getpeername
                | A::CgroupInet4Getsockname => self.streams[0] = true,
                A::CgroupInet6Bind
                | A::CgroupInet6Connect
                | A::CgroupInet6Getpeername
                | A::CgroupInet6Getsockname => self.streams[1] = true,
                A::CgroupUdp4Sendmsg | A::CgroupUdp4Recvmsg => self.datagrams[0] = true,
                A::CgroupUdp6Sendmsg | A::CgroupUdp6Recvmsg => self.datagrams[1] = true,
                A::CgroupUnixConnect | A::CgroupUnixGetpeername | A::CgroupUnixGetsockname => {
                    self.streams[2] = true;
                }
                A::CgroupUnixSendmsg | A::CgroupUnixRecvmsg => self.datagrams[2] = true,
                _ => return false,
            },
            _ => return false,
        }
        self.group = true;
        true
    }

    /// Notes a program that watches a place of the kernel.
    pub(super) fn watch(&mut self, place: &str) {
        for (_, need) in WATCHED.iter().filter(|(words, _)| words.iter().any(|w| place.contains(w)))
        {
            need(self);
        }
    }

    /// The tasks that make the calls, one of the group if there is one; none when there are none.
    pub(super) fn tasks(&self) -> Vec<String> {
        let mut s = Script { lines: Vec::new(), next: 3 };
        if self.files {
            let fd = s.open("path: \"/etc/hosts\"");
            s.call("read", &format!("fd: {fd}"));
            s.call("close", &format!("fd: {fd}"));
            s.next = fd;
        }
        if self.folders {
            s.call("mkdirat", "path: \"/tmp/new\"");
            s.call("unlinkat", "path: \"/tmp/new\", flags: AT_REMOVEDIR");
        }
        if self.maps {
            s.call("mmap", "prot: [PROT_READ, PROT_WRITE]");
        }
        if self.runs {
            s.call("execve", "path: \"/bin/true\"");
        }
        if self.sleeps {
            s.call("nanosleep", "ns: 10_000");
        }
        if self.forks {
            s.call("clone", "task: \"child\"");
        }
        if self.kills {
            s.call("kill", "task: \"child\", sig: SIGTERM");
        }
        if self.devices {
            s.open("path: \"/dev/null\", flags: O_RDWR");
        }
        if self.variables {
            let fd = s.open("path: \"/proc/sys/net/core/somaxconn\"");
            s.call("read", &format!("fd: {fd}"));
        }
        for ((family, [streams, datagrams]), (stream, datagram)) in
            FAMILIES.iter().zip(self.streams.iter().zip(self.datagrams))
        {
            if *stream {
                s.stream(family, streams);
            }
            if datagram {
                s.datagram(family, datagrams);
            }
        }
        if s.lines.is_empty() {
            return Vec::new();
        }
        let lines: String = s.lines.iter().map(|l| format!("            {l},\n")).collect();
        let group = if self.group { format!("cgroup: \"{GROUP}\", ") } else { String::new() };
        let mut tasks = vec![format!("\"app\": ({group}script: [\n{lines}        ])")];
        if self.forks {
            tasks.push("\"child\": (script: [Sleep(\"100us\"), Exit(0)])".to_owned());
        }
        tasks
    }
}

/// Operations, and the descriptor that the next one opens.
struct Script {
    lines: Vec<String>,
    next: u32,
}

impl Script {
    fn call(&mut self, name: &str, args: &str) {
        self.lines.push(format!("Sys(call: \"{name}\", args: ({args}))"));
    }

    fn opens(&mut self, name: &str, args: &str) -> u32 {
        self.call(name, args);
        self.next += 1;
        self.next - 1
    }

    fn open(&mut self, args: &str) -> u32 {
        self.opens("openat", args)
    }

    /// A connection of the task with itself.
    fn stream(&mut self, family: &str, addr: &str) {
        let server = self.opens("socket", &format!("family: {family}"));
        self.call("bind", &format!("fd: {server}, addr: \"{addr}\""));
        self.call("listen", &format!("fd: {server}"));
        let client = self.opens("socket", &format!("family: {family}"));
        self.call("setsockopt", &format!("fd: {client}, optname: SO_PRIORITY, optval: 1"));
        self.call("getsockopt", &format!("fd: {client}, optname: SO_PRIORITY"));
        self.call("connect", &format!("fd: {client}, addr: \"{addr}\""));
        self.call("getsockname", &format!("fd: {client}"));
        self.call("getpeername", &format!("fd: {client}"));
        self.call("close", &format!("fd: {client}"));
        self.next = client;
    }

    /// A datagram from the task to itself.
    fn datagram(&mut self, family: &str, addr: &str) {
        let socket = format!("family: {family}, type: SOCK_DGRAM");
        let server = self.opens("socket", &socket);
        self.call("bind", &format!("fd: {server}, addr: \"{addr}\""));
        let client = self.opens("socket", &socket);
        let to = format!("fd: {client}, buf: \"hello\", addr: \"{addr}\"");
        self.call("sendto", &to);
        // A program may have kept it back.
        self.call("recvfrom", &format!("fd: {server}, flags: MSG_DONTWAIT"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_makes_the_calls_that_programs_wait_for() {
        let mut calls = Calls::default();
        assert!(calls.tasks().is_empty());
        assert!(!calls.add(ProgType::SkLookup, None));
        assert!(calls.add(ProgType::CgroupDevice, None));
        assert!(calls.add(ProgType::CgroupSockAddr, Some(AttachType::CgroupInet6Connect)));
        let text = calls.tasks().concat();
        assert!(
            text.contains("/dev/null") && text.contains("fd: 5, addr: \"[::1]:8000\""),
            "{text}"
        );
        assert!(!text.contains("127.0.0.1"), "{text}");
        assert!(calls.add(ProgType::CgroupSockAddr, Some(AttachType::CgroupUnixSendmsg)));
        let text = calls.tasks().concat();
        assert!(text.contains("buf: \"hello\", addr: \"@datagrams\""), "{text}");
    }

    #[test]
    fn what_is_watched_happens() {
        let done = |place| {
            let mut calls = Calls::default();
            calls.watch(place);
            calls.tasks().concat()
        };
        assert!(done("syscalls/sys_exit_openat").contains("openat"));
        assert!(done("bprm_check_security").contains("execve"));
        assert!(done("sched/sched_process_exit").contains("\"child\": ("));
        assert!(done("tcp_v4_connect").contains("\"connect\""));
        assert!(done("netif_receive_skb").is_empty());
    }
}
