//! The system calls of the model: one row each.
//! tidy: table

use bpf::Arch;

use super::{Act, bpf as bpf_call, calls, names, sock};

/// What a parameter takes in a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Param {
    /// A number, of this value when it is left out.
    Num(&'static str, u64),
    /// Text with a NUL behind it, or bytes; NULL when it is left out.
    Text(&'static str),
    /// A buffer of the task of so many bytes, which another parameter gives.
    Room(&'static str),
    /// Length of the text of another parameter, when it is left out.
    Len(&'static str, &'static str),
    /// `"10.0.0.1:80"` as `struct sockaddr_in`, `"[fd00::1]:80"` as `struct sockaddr_in6`,
    /// `"/tmp/x"`, for an abstract name `"@x"` and for none `""` as `struct sockaddr_un`; NULL when
    /// it is left out.
    Addr(&'static str),
    /// A task by name, or a number.
    Task(&'static str),
    /// A number as an `int` in the task's memory, text without a NUL, or bytes.
    Value(&'static str),
    /// A `u32` in the task's memory, of this value when it is left out.
    Ref(&'static str, u32),
}

impl Param {
    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Param::Num(n, _)
            | Param::Text(n)
            | Param::Room(n)
            | Param::Len(n, _)
            | Param::Addr(n)
            | Param::Ref(n, _)
            | Param::Value(n)
            | Param::Task(n) => n,
        }
    }
}

/// One system call.
#[derive(Debug)]
pub struct SysRow {
    /// Name, as its tracepoints have it.
    pub name: &'static str,
    /// Parameters in order.
    pub params: &'static [Param],
    /// On x86-64, on arm64 and riscv64, on s390x.
    numbers: [u32; 3],
    /// Its function, without the architecture's prefix.
    pub(super) function: &'static str,
    pub(super) enter: &'static str,
    pub(super) exit: &'static str,
    pub(super) body: Act,
}

impl SysRow {
    /// Its number on an architecture.
    #[must_use]
    pub fn number(&self, arch: Arch) -> u32 {
        match arch {
            Arch::X86_64 => self.numbers[0],
            Arch::Arm64 | Arch::Riscv64 => self.numbers[1],
            Arch::S390x => self.numbers[2],
        }
    }
}

macro_rules! rows {
    ($($name:literal, $numbers:expr, $body:path, [$($param:expr),*];)*) => {
        &[$(SysRow {
            name: $name,
            params: &[$($param),*],
            numbers: $numbers,
            function: concat!("sys_", $name),
            enter: concat!("sys_enter_", $name),
            exit: concat!("sys_exit_", $name),
            body: $body,
        }),*]
    };
}

use Param::{Addr, Len, Num, Ref, Room, Task, Text, Value};

/// `AT_FDCWD`.
const CWD: u64 = -100i64 as u64;

/// All of them.
#[rustfmt::skip]
pub static SYSCALLS: &[SysRow] = rows! {
    "openat", [257, 56, 288], calls::openat, [Num("dfd", CWD), Text("path"), Num("flags", 0), Num("mode", 0)];
    "read", [0, 63, 3], calls::read, [Num("fd", 0), Room("buf"), Num("count", 64)];
    "write", [1, 64, 4], calls::write, [Num("fd", 1), Text("buf"), Len("count", "buf")];
    "close", [3, 57, 6], calls::close, [Num("fd", 0)];
    "execve", [59, 221, 11], calls::execve, [Text("path"), Num("argv", 0), Num("envp", 0)];
    "clone", [56, 220, 120], calls::clone, [Num("flags", 17), Task("task")];
    "kill", [62, 129, 37], calls::kill, [Task("task"), Num("sig", 15)];
    "mmap", [9, 222, 90], calls::mmap, [Num("addr", 0), Num("len", 4096), Num("prot", 3), Num("flags", 0x22), Num("fd", -1i64 as u64), Num("off", 0)];
    "munmap", [11, 215, 91], calls::munmap, [Num("addr", 0), Num("len", 4096)];
    "nanosleep", [35, 101, 162], calls::nanosleep, [Num("ns", 0)];
    "bpf", [321, 280, 351], bpf_call::bpf, [Num("cmd", 0), Text("attr"), Len("size", "attr")];
    "exit_group", [231, 94, 248], calls::exit_group, [Num("code", 0)];
    "socket", [41, 198, 359], sock::socket, [Num("family", 2), Num("type", 1), Num("protocol", 0)];
    "connect", [42, 203, 362], sock::connect, [Num("fd", 3), Addr("addr"), Len("addrlen", "addr")];
    "sendto", [44, 206, 369], sock::sendto, [Num("fd", 3), Text("buf"), Len("len", "buf"), Num("flags", 0), Addr("addr"), Len("addrlen", "addr")];
    "recvfrom", [45, 207, 371], sock::recvfrom, [Num("fd", 3), Room("buf"), Num("count", 64), Num("flags", 0), Room("addr"), Ref("addrlen", 28)];
    "bind", [49, 200, 361], sock::bind, [Num("fd", 3), Addr("addr"), Len("addrlen", "addr")];
    "listen", [50, 201, 363], sock::listen, [Num("fd", 3), Num("backlog", 128)];
    "getsockname", [51, 204, 367], sock::getsockname, [Num("fd", 3), Room("addr"), Ref("addrlen", 28)];
    "getpeername", [52, 205, 368], sock::getpeername, [Num("fd", 3), Room("addr"), Ref("addrlen", 28)];
    "accept4", [288, 242, 364], sock::accept4, [Num("fd", 3), Room("addr"), Ref("addrlen", 28), Num("flags", 0)];
    "shutdown", [48, 210, 373], sock::shutdown, [Num("fd", 3), Num("how", 1)];
    "mkdirat", [258, 34, 289], names::mkdirat, [Num("dfd", CWD), Text("path"), Num("mode", 0o755)];
    "unlinkat", [263, 35, 294], names::unlinkat, [Num("dfd", CWD), Text("path"), Num("flags", 0)];
    "setsockopt", [54, 208, 366], sock::setsockopt, [Num("fd", 3), Num("level", 1), Num("optname", 0), Value("optval"), Len("optlen", "optval")];
    "getsockopt", [55, 209, 365], sock::getsockopt, [Num("fd", 3), Num("level", 1), Num("optname", 0), Room("optval"), Ref("optlen", 4)];
    "mknodat", [259, 33, 290], calls::mknodat, [Num("dfd", CWD), Text("path"), Num("mode", 0o020_666), Num("dev", 0x103)];
    "getpid", [39, 172, 20], calls::getpid, [];
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_has_its_tracepoints() {
        for row in SYSCALLS {
            for name in [row.enter, row.exit] {
                let found = crate::trace::tracepoint(&format!("syscalls/{name}"));
                assert!(found.is_some(), "{name}");
            }
        }
    }
}
