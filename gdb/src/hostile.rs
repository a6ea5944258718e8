//! Sessions at random: packets that debuggers send, and damage to them, for whoever wants to know
//! that a stub survives them.

use bpf::insn::generate::Rng;

use crate::session::checksum;

/// What a client says at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// The body of a packet, which gets its frame and check sum.
    Packet(Vec<u8>),
    /// Bytes as they are.
    Raw(Vec<u8>),
    /// Ctrl-C.
    Interrupt,
}

/// Addresses that packets of a session name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// Of instructions.
    pub code: Vec<u64>,
    /// Of data that can be read and written.
    pub data: Vec<u64>,
}

/// Packets that name no place.
#[rustfmt::skip]
const PLAIN: &[&str] = &[
    "qSupported:multiprocess+;swbreak+;hwbreak+;qRelocInsn+;fork-events+;xmlRegisters=i386",
    "vCont?", "vMustReplyEmpty", "QStartNoAckMode", "Hg0", "Hgp1.2", "Hc-1",
    "qXfer:features:read:target.xml:0,7fb", "qXfer:memory-map:read::0,ffb",
    "qXfer:exec-file:read:1:0,1000", "qXfer:libraries:read::0,1000", "qTStatus", "?",
    "qfThreadInfo", "qsThreadInfo", "qThreadExtraInfo,p1.1", "qAttached:1", "qOffsets", "g", "p10",
    "P1=0100000000000000", "vCont;c", "vCont;s:p1.1;c:p1.-1", "vCont;s:p1.1", "vCont;s:p1.2;c",
    "bs", "bc", "vFile:setfs:0", "vFile:open:2f7372632f6c6f6f702e6270662e63,0,1c0",
    "vFile:pread:0,3fff,0", "vFile:fstat:0", "vFile:close:0", "qSymbol::", "T1", "Tp1.2", "c", "s",
    "mffffffffffffffff,ffffffffffffffff", "m0,7fffffffffffffff",
    "vFile:pread:0,ffffffffffffffff,ffffffffffffffff",
    "qXfer:libraries:read::ffffffffffffffff,ffffffffffffffff",
];

/// Packets that end a session.
const LAST: &[&str] = &["vKill;1", "D;1", "k"];

/// Monitor commands.
#[rustfmt::skip]
const COMMANDS: &[&str] = &[
    "help", "progs", "maps", "map 1", "map counts 0", "percpu 1", "tasks", "cpus", "cpu 0", "locks",
    "lock-order", "rcu", "refs", "ring 1", "perf 1", "trace_pipe 4", "ctx", "packet", "stack",
    "verifier", "verifier log 3", "why", "why 2", "x/4i", "jit", "info debug", "goto 8", "goto end",
    "goto 0", "when", "mark a", "view bpf", "view c", "help goto", "trace", "catch prog", "catch",
    "delete", "map set 1 0 1", "send eth0", "next-packet", "event", "why -1", "goto -1", "x/0i",
];

/// One packet as a debugger sends it.
pub fn usual(places: &Places, rng: &mut Rng) -> Word {
    let hex = |text: &str| text.bytes().map(|b| format!("{b:02x}")).collect::<String>();
    let place = |list: &[u64], rng: &mut Rng| match list.is_empty() {
        true => 0,
        false => rng.pick(list),
    };
    let (code, data) = (place(&places.code, rng), place(&places.data, rng));
    let len = rng.pick(&[1u32, 2, 4, 8, 0x40, 0x1000]);
    let text = match rng.below(20) {
        0 => format!("m{data:x},{len:x}"),
        1 => format!("m{code:x},{len:x}"),
        2 => format!("M{data:x},2:0102"),
        3 => format!("X{data:x},2:ab"),
        4 => format!("Z{},{code:x},4", rng.below(2)),
        5 => format!("z{},{code:x},4", rng.below(2)),
        6 => format!("Z{},{data:x},{len:x}", 2 + rng.below(3)),
        7 => format!("z{},{data:x},{len:x}", 2 + rng.below(3)),
        8 => format!("vCont;r{code:x},{:x}:p1.1", code + 8),
        9..=11 => format!("qRcmd,{}", hex(rng.pick(COMMANDS))),
        12 if rng.one_in(4) => rng.pick(LAST).to_owned(),
        13 => return Word::Interrupt,
        _ => rng.pick(PLAIN).to_owned(),
    };
    Word::Packet(text.into_bytes())
}

/// One change to a session.
pub fn damage(words: &mut Vec<Word>, places: &Places, rng: &mut Rng) {
    let at = rng.below(words.len() as u32 + 1) as usize;
    let other = rng.below(words.len() as u32) as usize;
    match (rng.below(8), words.get_mut(at)) {
        (0 | 1, _) | (_, None) => words.insert(at, usual(places, rng)),
        (2, _) => drop(words.remove(at)),
        (3, Some(word)) => {
            let word = word.clone();
            words.insert(other, word);
        }
        (4, _) => words.swap(at, other),
        // Damaged after its check sum was made: it has to be sent again.
        (5, Some(word)) => {
            let mut bytes = word.bytes();
            harm(&mut bytes, rng);
            *word = Word::Raw(bytes);
        }
        (_, Some(Word::Packet(bytes) | Word::Raw(bytes))) => harm(bytes, rng),
        (_, Some(Word::Interrupt)) => {}
    }
}

/// One change to bytes.
fn harm(bytes: &mut Vec<u8>, rng: &mut Rng) {
    let at = rng.below(bytes.len() as u32 + 1) as usize;
    match rng.below(5) {
        0 => bytes.truncate(at),
        1 => bytes.extend_from_within(at..),
        2 => bytes.insert(at, rng.pick(b"0f,;:=-.+*#$%}{\0\xff\x03Z")),
        3 if at < bytes.len() => bytes[at] = rng.next_u64() as u8,
        // Digits of addresses, lengths and threads.
        _ => {
            let digits: Vec<usize> =
                (0..bytes.len()).filter(|n| bytes[*n].is_ascii_hexdigit()).collect();
            if !digits.is_empty() {
                bytes[rng.pick(&digits)] = rng.pick(b"0178f");
            }
        }
    }
}

impl Word {
    /// What is sent.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Word::Packet(body) => {
                let mut out = vec![b'$'];
                out.extend(body);
                out.extend(format!("#{:02x}", checksum(body)).as_bytes());
                out
            }
            Word::Raw(bytes) => bytes.clone(),
            Word::Interrupt => vec![3],
        }
    }

    /// As a line of a file: `$` and a body, `!` and bytes, or `^C`; what is not printed is `\xx`.
    #[must_use]
    pub fn line(&self) -> String {
        let (kind, bytes) = match self {
            Word::Packet(body) => ('$', body),
            Word::Raw(bytes) => ('!', bytes),
            Word::Interrupt => return "^C".to_owned(),
        };
        let shown = |b: &u8| match b {
            b'\\' | 0..0x20 | 0x7f.. => format!("\\{b:02x}"),
            b => char::from(*b).to_string(),
        };
        format!("{kind}{}", bytes.iter().map(shown).collect::<String>())
    }

    /// What [`Word::line`] wrote; `None` for what it does not write.
    #[must_use]
    pub fn parse(line: &str) -> Option<Word> {
        if line == "^C" {
            return Some(Word::Interrupt);
        }
        let (kind, rest) = line.split_at_checked(1)?;
        let (mut bytes, mut left) = (Vec::new(), rest.bytes());
        while let Some(b) = left.next() {
            bytes.push(match b {
                b'\\' => {
                    let hex = [left.next()?, left.next()?];
                    u8::from_str_radix(std::str::from_utf8(&hex).ok()?, 16).ok()?
                }
                b => b,
            });
        }
        match kind {
            "$" => Some(Word::Packet(bytes)),
            "!" => Some(Word::Raw(bytes)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_they_were_written() {
        let mut rng = Rng(5);
        let mut words = Vec::new();
        for _ in 0..400 {
            damage(&mut words, &Places::default(), &mut rng);
        }
        for word in &words {
            assert_eq!(Word::parse(&word.line()).as_ref(), Some(word), "{}", word.line());
        }
        assert!(words.len() > 40);
    }
}
