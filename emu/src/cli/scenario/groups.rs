//! Programs of control groups: the system calls of a task that they are asked about.

use bpf::uapi::{AttachType, ProgType};

/// The group of the programs and of the task.
pub(super) const GROUP: &str = "/app";

/// Calls that are needed, by what makes a program run.
#[derive(Debug, Default)]
pub(super) struct Calls {
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
        true
    }

    /// A task of the group that makes the calls; none when there are none.
    pub(super) fn tasks(&self) -> Vec<String> {
        let mut s = Script { lines: Vec::new(), next: 3 };
        if self.files {
            s.open("path: \"/etc/hosts\"");
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
        vec![format!("\"app\": (cgroup: \"{GROUP}\", script: [\n{lines}        ])")]
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
}
