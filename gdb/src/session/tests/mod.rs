//! Sessions over a tiny machine: what is said, and what happens when nonsense is said.

mod mock;
mod mutate;

use std::collections::VecDeque;
use std::io;

use bpf::Arch;
use expect_test::{Expect, expect};

use self::mock::{COUNTER, Mock, TEXT};
use super::conn::Stream;
use super::frame::checksum;
use super::{Ended, Files, SessionError, listen, serve};

/// A client that has said everything already.
#[derive(Debug, Default)]
struct Said {
    input: VecDeque<u8>,
    output: Vec<u8>,
    /// Input that is there only once the machine runs.
    while_running: VecDeque<u8>,
}

impl Said {
    fn bytes(input: Vec<u8>) -> Said {
        Said { input: input.into(), ..Said::default() }
    }
}

impl Stream for Said {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        // One byte at a time is as legal as all at once.
        let Some(byte) = self.input.pop_front() else { return Ok(0) };
        into[0] = byte;
        Ok(1)
    }

    fn read_now(&mut self, into: &mut [u8]) -> io::Result<Option<usize>> {
        let Some(byte) = self.while_running.pop_front() else { return Ok(None) };
        into[0] = byte;
        Ok(Some(1))
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.output.extend_from_slice(bytes);
        Ok(())
    }
}

fn packet(body: &str) -> Vec<u8> {
    let mut packet = vec![b'$'];
    packet.extend(body.as_bytes());
    packet.extend(format!("#{:02x}", checksum(body.as_bytes())).as_bytes());
    packet
}

/// Says each line as a packet and shows the answers, hex text decoded.
fn talk(mock: &mut Mock, lines: &str, running: &[u8]) -> (String, Result<Ended, SessionError>) {
    let mut said = Said { while_running: running.iter().copied().collect(), ..Said::default() };
    said.input.extend(packet("QStartNoAckMode"));
    for line in lines.lines().map(str::trim).filter(|l| !l.is_empty()) {
        said.input.extend(packet(line));
    }
    let ended = serve(&mut said, mock, &mut Files::new());
    let text: String = said.output.iter().map(|b| char::from(*b)).collect();
    let answers = text.split('$').skip(2).map(|a| a.rsplit_once('#').map_or(a, |(body, _)| body));
    let answers = answers.map(expanded);
    let shown = answers.map(|a| match a.strip_prefix('O').filter(|_| a != "OK") {
        Some(hex) => format!("O {}\n", unhex(hex).trim_end()),
        None => format!("{}\n", short(&a)),
    });
    (shown.collect(), ended)
}

/// The start of a long answer without the registers told with a stop: snapshots are for reading.
fn short(answer: &str) -> String {
    let register = |part: &&str| part.as_bytes().get(2) != Some(&b':') || part.len() < 10;
    let parts: Vec<&str> = answer.split(';').filter(register).collect();
    let told = if answer.starts_with('T') { parts.join(";") } else { answer.to_owned() };
    let start: String = told.chars().take(80).collect();
    let start = start.replace(|c: char| !(' '..='~').contains(&c) && c != '\n', ".");
    if start.len() < told.len() { format!("{start}...") } else { start }
}

/// Undoes run-length encoding: a byte, `*`, and how often it comes again plus 29.
fn expanded(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, out.chars().last()) {
            ('*', Some(last)) => {
                let again = chars.next().map_or(0, |n| u32::from(n).saturating_sub(29));
                (0..again).for_each(|_| out.push(last));
            }
            _ => out.push(c),
        }
    }
    out
}

fn unhex(hex: &str) -> String {
    let pairs = hex.as_bytes().chunks(2).map(|p| std::str::from_utf8(p).unwrap_or("3f"));
    pairs.map(|p| u8::from_str_radix(p, 16).map_or('?', char::from)).collect()
}

fn check(arch: Arch, lines: &str, expected: &Expect) {
    expected.assert_eq(&talk(&mut Mock::new(arch), lines, &[]).0);
}

#[test]
fn registers_are_in_the_byte_order_of_the_target() {
    // R0 after one instruction of CPU 0; the FPU has nothing.
    check(
        Arch::X86_64,
        "vCont;s:p1.1;c\np0\np18\np28\np33\np34",
        &expect![[r#"
        T05thread:01;
        0100000000000000
        xxxxxxxxxxxxxxxxxxxx
        0100000000000000
        0100000000000000

    "#]],
    );
    check(
        Arch::S390x,
        "vCont;s:p1.1;c\np0\np1\np10\np22\np43\np4e\np4f",
        &expect![[r#"
        T05thread:01;
        0000000000000002
        0000000000100004
        0000000000000001
        xxxxxxxx



    "#]],
    );
}

#[test]
fn breakpoints_are_told_by_kind_and_gone_ones_are_no_breakpoints() {
    let lines = format!(
        "Z0,{:x},1\nvCont;c\nz0,{:x},1\nZ1,{:x},1\nvCont;c\nz1,{:x},1\nvCont;s:1;c\nz1,{:x},1",
        TEXT + 8,
        TEXT + 8,
        TEXT + 4,
        TEXT + 4,
        TEXT + 4
    );
    check(
        Arch::Riscv64,
        &lines,
        &expect![[r#"
        OK
        T05thread:01;swbreak:;
        OK
        OK
        T05thread:01;hwbreak:;
        OK
        T05thread:02;
        E16
    "#]],
    );
}

#[test]
fn breakpoints_reach_the_machine_when_it_goes_on() {
    let mut mock = Mock::new(Arch::Arm64);
    let at = TEXT + 12;
    let stop = format!("Z0,{at:x},4\nvCont;c\nz0,{at:x},4\n");
    let step = format!("vCont;s:1\nZ0,{at:x},4\nvCont;s:1;c\nz0,{at:x},4\n");
    let (_, ended) = talk(&mut mock, &format!("{stop}{step}{step}D"), &[]);
    assert_eq!(ended.unwrap(), Ended::Detached);
    assert_eq!(mock.changes, 2, "once in, once out, whatever gdb does at each stop");
    // The CPU whose turn it is steps as the schedule has it.
    let locked: Vec<_> = mock.resumes.iter().map(|r| r.only).collect();
    assert_eq!(locked, [None; 5]);
}

#[test]
fn watchpoints_say_address_and_kind() {
    let lines =
        format!("Z2,{COUNTER:x},8\nvCont;c\nm{COUNTER:x},1\nbc\nZ3,{COUNTER:x},ffffffffffffffff");
    check(
        Arch::S390x,
        &lines,
        &expect![[r#"
        OK
        T05thread:01;watch:200000;
        01
        T05thread:01;watch:200000;
        E16
    "#]],
    );
}

#[test]
fn back_to_the_beginning_and_on_to_the_end() {
    check(
        Arch::X86_64,
        "bs\nvCont;c\nvCont;c\nHc1\nbs\nbc",
        &expect![[r#"
        T05thread:01;replaylog:begin;
        T05thread:02;library:;
        T05thread:01;replaylog:end;
        OK
        T05thread:01;
        T05thread:01;replaylog:begin;
    "#]],
    );
}

#[test]
fn programs_are_libraries_and_their_symbols_files() {
    let open = "2f6270662f666972737423312e656c66"; // /bpf/first#1.elf
    let source = "2f7372632f6c6f6f702e6270662e63"; // /src/loop.bpf.c
    let lines = format!(
        "qXfer:libraries:read::0,1000\nqXfer:exec-file:read:1:0,1000\nvFile:setfs:0\n\
         vFile:open:{open},0,0\nvFile:open:{source},0,0\nvFile:pread:1,100,4\nvFile:fstat:1\n\
         vFile:close:0\nvFile:close:0\nvFile:open:{source},0,0\nvFile:open:{source},1,0\n\
         vFile:open:2f65,0,0\nvFile:pread:7,1,0\nvCont;c\nqXfer:libraries:read::4a,1000"
    );
    check(
        Arch::Riscv64,
        &lines,
        &expect![[r#"
        m<library-list version="1.0">
        <library name="/bpf/first}.1.elf"><segment address...
        m/bpf/kernel.riscv64.elf
        F0
        F00
        F01
        F06;loop;

        F40;...................................
        ...............................
        F0
        F-1,09
        F00
        F-1,1e
        F-1,02
        F-1,09
        T05thread:02;library:;
        mress="0x101000"/></library>
        <library name="/bpf/sec&lt;ond}.2.elf"><segment add...
    "#]],
    );
}

#[test]
fn threads_are_cpus() {
    check(
        Arch::Arm64,
        "qfThreadInfo\nqThreadExtraInfo,p1.2\nT2\nT3\nHg2\ng\nqC\nHc0\nbs\nqThreadExtraInfo,p1.9",
        &expect![[r#"
            m01,02
            63707531207461736b20206c6f6f702f31
            OK
            E01
            OK
            00000000000000000000000000000000000000000000000000000000000000000000000000000000...

            OK
            T05thread:01;replaylog:begin;
            6e6f207375636820435055
        "#]],
    );
}

#[test]
fn a_range_is_stepped_over_at_once() {
    let lines = format!("vCont;r{:x},{:x}:1;c\nvCont;r0,0:1\nvCont;s:2", TEXT, TEXT + 8);
    let mut mock = Mock::new(Arch::Riscv64);
    let (text, _) = talk(&mut mock, &lines, &[]);
    expect![[r#"
        T05thread:01;
        T05thread:01;
        T05thread:02;
    "#]]
    .assert_eq(&text);
    expect![[r#"
        [
            Resume {
                direction: Forward,
                step: Some(
                    (
                        0,
                        Some(
                            1048576..1048584,
                        ),
                    ),
                ),
                only: None,
            },
            Resume {
                direction: Forward,
                step: Some(
                    (
                        0,
                        None,
                    ),
                ),
                only: None,
            },
            Resume {
                direction: Forward,
                step: Some(
                    (
                        1,
                        None,
                    ),
                ),
                only: Some(
                    1,
                ),
            },
        ]
    "#]]
    .assert_debug_eq(&mock.resumes);
}

#[test]
fn ctrl_c_stops_the_machine() {
    let mut mock = Mock::new(Arch::X86_64);
    let (text, _) = talk(&mut mock, "vCont;c\n?", &[0x03]);
    expect![[r#"
        T02thread:01;
        T05thread:01;
    "#]]
    .assert_eq(&text);
}

#[test]
fn what_a_monitor_command_moved_is_told() {
    let goto = "qRcmd,676f746f2038"; // goto 8
    let view = "qRcmd,766965772062706620"; // view bpf
    let lines = format!("{goto}\nvCont;c\n{goto}\ng\nvCont;s:1\n{view}\nvCont;c\nqRcmd,3f");
    check(
        Arch::Riscv64,
        &lines,
        &expect![[r#"
        O there
        (gdb sees it after `maintenance flush register-cache`, or with its next
        step or continue, which then does not move)
        OK
        T05thread:01;
        O there
        (gdb sees it after `maintenance flush register-cache`, or with its next
        step or continue, which then does not move)
        OK
        00000000000000000000000000000000000000000000000000000000000000000000000000000000...
        T05thread:01;
        OK
        T05thread:01;library:;
        O no such command
        OK
    "#]],
    );
}

#[test]
fn writes_are_said_to_fork_the_timeline() {
    let lines = format!("M{COUNTER:x},2:0102\nP1=0100000000000000\nvCont;s:1\nM5,1:00\nm5,1");
    check(
        Arch::Riscv64,
        &lines,
        &expect![[r#"
        OK
        OK
        O the timeline is forked
        O the timeline is forked
        T05thread:01;
        E0e
        E0e
    "#]],
    );
}

#[test]
fn sessions_end_as_they_were_ended() {
    for (lines, end) in [
        ("D;1", Ended::Detached),
        ("k", Ended::Killed),
        ("vKill;1", Ended::Killed),
        ("?", Ended::Closed),
    ] {
        let (_, ended) = talk(&mut Mock::new(Arch::X86_64), lines, &[]);
        assert_eq!(ended.unwrap(), end, "{lines}");
    }
}

#[test]
fn a_second_debugger_is_told_why() {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let attached = listen(listener);
    let first = TcpStream::connect(at).unwrap();
    let held = attached.next(None).unwrap();
    assert!(held.is_some() && attached.waits());
    let mut second = TcpStream::connect(at).unwrap();
    second.write_all(&packet("qSupported:multiprocess+")).unwrap();
    let mut said = String::new();
    second.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("+$E.another debugger is attached (from 127.0.0.1:"), "{said}");
    // The first one leaves, and the next is let in.
    drop((first, held));
    attached.done();
    let _third = TcpStream::connect(at).unwrap();
    assert!(attached.next(Some(Duration::from_secs(60))).unwrap().is_some());
}

#[test]
fn target_descriptions() {
    use crate::arch::{S390, X64};
    let all = [crate::xml::target::<X64>(), crate::xml::target::<S390>()];
    // The registers of one line each are in the tables; here is what is around them.
    let frame = |xml: &String| {
        let lines = xml.lines().filter(|l| {
            !l.starts_with("<reg") || l.contains("regnum=\"0\"") || l.contains("bpf_pc")
        });
        lines.fold(String::new(), |text, l| text + l + "\n")
    };
    expect![[r#"
        <?xml version="1.0"?>
        <!DOCTYPE target SYSTEM "gdb-target.dtd">
        <target version="1.0">
        <architecture>i386:x86-64</architecture>
        <osabi>none</osabi>
        <feature name="org.gnu.gdb.i386.core">
        <reg name="rax" bitsize="64" type="int64" regnum="0"/>
        </feature>
        <feature name="org.orrery.bpf">
        <reg name="bpf_pc" bitsize="64" type="uint64" regnum="51" group="bpf"/>
        </feature>
        </target>
        <?xml version="1.0"?>
        <!DOCTYPE target SYSTEM "gdb-target.dtd">
        <target version="1.0">
        <architecture>s390:64-bit</architecture>
        <osabi>none</osabi>
        <feature name="org.gnu.gdb.s390.core">
        <reg name="pswm" bitsize="64" type="uint64" regnum="0"/>
        </feature>
        <feature name="org.gnu.gdb.s390.acr">
        </feature>
        <feature name="org.gnu.gdb.s390.fpr">
        </feature>
        <feature name="org.orrery.bpf">
        <reg name="bpf_pc" bitsize="64" type="uint64" regnum="62" group="bpf"/>
        </feature>
        </target>
    "#]]
    .assert_eq(&all.iter().map(frame).collect::<String>());
}
