//! Sessions damaged at random: they end, or go on, but never panic, hang or grow.

use bpf::Arch;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::mock::{COUNTER, Mock, TEXT};
use super::{Said, packet};
use crate::session::{Files, serve};

/// Answers of a whole session are no longer than this for each byte said.
const ANSWER_BYTES_MAX: usize = 0x8_0000;

/// Packets a debugger sends, as a start.
fn usual() -> Vec<String> {
    let fixed = [
        "qSupported:multiprocess+;swbreak+;hwbreak+;qRelocInsn+;fork-events+;xmlRegisters=i386",
        "vCont?",
        "vMustReplyEmpty",
        "QStartNoAckMode",
        "Hg0",
        "Hgp1.2",
        "Hc-1",
        "qXfer:features:read:target.xml:0,7fb",
        "qXfer:memory-map:read::0,ffb",
        "qXfer:exec-file:read:1:0,1000",
        "qXfer:libraries:read::0,1000",
        "qTStatus",
        "?",
        "qfThreadInfo",
        "qsThreadInfo",
        "qThreadExtraInfo,p1.1",
        "qAttached:1",
        "qOffsets",
        "g",
        "p10",
        "P1=0100000000000000",
        "vCont;c",
        "vCont;s:p1.1;c:p1.-1",
        "vCont;r100000,100008:p1.1",
        "bs",
        "bc",
        "vFile:setfs:0",
        "vFile:open:2f7372632f6c6f6f702e6270662e63,0,1c0",
        "vFile:pread:0,3fff,0",
        "vFile:fstat:0",
        "vFile:close:0",
        "qRcmd,676f746f2038",
        "qSymbol::",
        "vKill;1",
        "D;1",
    ];
    let at = [
        format!("m{COUNTER:x},40"),
        format!("M{COUNTER:x},2:0102"),
        format!("X{COUNTER:x},2:ab"),
        format!("Z0,{:x},4", TEXT + 4),
        format!("z0,{:x},4", TEXT + 4),
        format!("Z2,{COUNTER:x},8"),
        format!("Z4,{COUNTER:x},8"),
        "mffffffffffffffff,ffffffffffffffff".to_owned(),
        "m0,7fffffffffffffff".to_owned(),
        "vFile:pread:0,ffffffffffffffff,ffffffffffffffff".to_owned(),
        "qXfer:libraries:read::ffffffffffffffff,ffffffffffffffff".to_owned(),
    ];
    fixed.iter().map(|s| (*s).to_owned()).chain(at).collect()
}

#[derive(Clone, Debug)]
enum Damage {
    Byte(usize, u8),
    Cut(usize),
    Double(usize),
    Insert(usize, Vec<u8>),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        (any::<usize>(), any::<u8>()).prop_map(|(at, b)| Damage::Byte(at, b)),
        any::<usize>().prop_map(Damage::Cut),
        any::<usize>().prop_map(Damage::Double),
        (any::<usize>(), prop::collection::vec(any::<u8>(), 1..12))
            .prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
    ]
}

fn damaged(mut bytes: Vec<u8>, how: &Damage) -> Vec<u8> {
    let n = bytes.len().max(1);
    match how {
        Damage::Byte(at, b) if !bytes.is_empty() => bytes[at % n] = *b,
        Damage::Byte(..) => {}
        Damage::Cut(at) => bytes.truncate(at % n),
        Damage::Double(at) => bytes.extend_from_within(at % n..),
        Damage::Insert(at, more) => {
            bytes.splice(at % n..at % n, more.iter().copied());
        }
    }
    bytes
}

/// A packet, damaged before its check sum is made (so that it is taken), after it, or not at all.
fn words() -> impl Strategy<Value = Vec<u8>> {
    let usual = prop::sample::select(usual());
    let how = prop::option::weighted(0.7, (any::<bool>(), prop::collection::vec(damage(), 1..4)));
    (usual, how).prop_map(|(body, how)| match how {
        None => packet(&body),
        Some((true, how)) => {
            let body = how.iter().fold(body.into_bytes(), damaged);
            let mut bytes = vec![b'$'];
            bytes.extend(&body);
            bytes.extend(format!("#{:02x}", super::checksum(&body)).as_bytes());
            bytes
        }
        Some((false, how)) => how.iter().fold(packet(&body), damaged),
    })
}

#[test]
fn damaged_packets_neither_panic_nor_hang_nor_grow() {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(2000);
    let mut runner =
        TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let arch = prop::sample::select(Arch::ALL.to_vec());
    let input = (arch, prop::collection::vec(words(), 1..24));
    let outcome = runner.run(&input, |(arch, words)| {
        let mut said = Said::bytes(words.concat());
        let mut mock = Mock::new(arch);
        // An error ends the session, which is an answer too.
        let _ = serve(&mut said, &mut mock, &mut Files::new());
        prop_assert!(said.output.len() < ANSWER_BYTES_MAX * words.len());
        Ok(())
    });
    if let Err(e) = outcome {
        panic!("{e}\n{runner}");
    }
}
