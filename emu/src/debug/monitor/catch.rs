//! Event breakpoints: `break helper|map|lock|verdict|drop|packet|prog-exit|tail-call`.
//!
//! Most are events of the trace. A key of a map is watched by what is there, so that a store
//! through a pointer into the value and user space are seen too.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bpf::insn::{Call, Insn};
use bpf::uapi::MapType;
use kernel_model::helpers::{bare, full};
use kernel_model::lock::LockId;
use kernel_model::maps::{Entry, MapId};
use kernel_model::{CpuId, Event, EventKind, Kernel, ProgId};

use super::names::{self, MapTypes};
use super::{no_more, number};
use crate::machine::Machine;
use crate::unicorn::spec;

/// What is done to a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Lookup,
    Update,
    Delete,
}

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Helper(String),
    Map(MapId, Option<Op>),
    Key(MapId, Vec<u8>, Option<Op>),
    Lock(String),
    Verdict(String),
    Drop(Option<String>),
    Packet(u64),
    Exit(Option<ProgId>, Option<u32>),
    TailCall,
}

/// One event breakpoint.
#[derive(Clone, Debug)]
struct Catch {
    number: u32,
    /// As it was asked for.
    text: String,
    what: What,
    /// Value of a key when it was looked at last.
    was: Option<Vec<u8>>,
}

/// The event breakpoints of a session.
#[derive(Clone, Debug, Default)]
pub struct Catches {
    list: Vec<Catch>,
    last: u32,
    /// Events that were looked at, of all so far.
    seen: usize,
}

/// Something that is waited for has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Whose doing it is.
    pub cpu: CpuId,
    /// What to say.
    pub text: String,
}

const USAGE: &str = "break helper NAME | map NAME [key K] [lookup|update|delete] | lock NAME | \
                     verdict NAME | drop [REASON] | packet N | prog-exit [PROG] [= VALUE] | \
                     tail-call";

impl Catches {
    /// `break WHAT ..`; what was added, in words.
    ///
    /// # Errors
    /// What is not understood, with what there is.
    pub fn add(&mut self, machine: &Machine, args: &[&str]) -> Result<String, String> {
        let what = parse(&machine.kernel, args)?;
        self.last += 1;
        let text = args.join(" ");
        let mut said = format!("event breakpoint {}: {text}\n", self.last);
        said.push_str(&inlined(&machine.kernel, &what));
        self.list.push(Catch { number: self.last, text, what, was: None });
        self.arm(machine);
        Ok(said)
    }

    /// `delete [N]`.
    ///
    /// # Errors
    /// There is no such one.
    pub fn remove(&mut self, args: &[&str]) -> Result<String, String> {
        let [n, more @ ..] = args else {
            self.list.clear();
            return Ok("no event breakpoints are left\n".to_owned());
        };
        no_more(more)?;
        let n = number(n)?;
        let before = self.list.len();
        self.list.retain(|c| u64::from(c.number) != n);
        match self.list.len() < before {
            true => Ok(format!("event breakpoint {n} is gone\n")),
            false => Err(format!("no event breakpoint {n}; {}", self.text().trim_end())),
        }
    }

    /// All of them, in words.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        for c in &self.list {
            let _ = writeln!(out, "event breakpoint {}: {}", c.number, c.text);
        }
        if out.is_empty() {
            out.push_str("there are no event breakpoints\n");
        }
        out
    }

    /// Whether nothing is waited for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The machine stands somewhere else: what is there now is what was.
    pub fn arm(&mut self, machine: &Machine) {
        self.seen = machine.event_count();
        for c in &mut self.list {
            if let What::Key(map, key, _) = &c.what {
                c.was = value(&machine.kernel, *map, key);
            }
        }
    }

    /// Whether something that is waited for has happened since it was asked last.
    pub fn look(&mut self, machine: &Machine) -> Option<Hit> {
        let k = &machine.kernel;
        let mut hit = None;
        for c in &mut self.list {
            let found = match &c.what {
                What::Key(map, key, Some(Op::Lookup)) => {
                    machine.events_from(self.seen).iter().find_map(|e| {
                        let text = happened(&What::Map(*map, Some(Op::Lookup)), k, e)?;
                        let same = looked_up(machine, e.cpu, key.len())? == *key;
                        same.then(|| Hit { cpu: e.cpu, text: format!("{}: {text}", c.text) })
                    })
                }
                What::Key(map, key, op) => {
                    let now = value(k, *map, key);
                    let (was, is) = (std::mem::replace(&mut c.was, now.clone()), now);
                    changed(&was, &is, *op).map(|did| {
                        let cpu = machine.last_cpu();
                        Hit { cpu, text: format!("{}: {did}", c.text) }
                    })
                }
                what => machine.events_from(self.seen).iter().find_map(|e| {
                    let text = happened(what, k, e)?;
                    Some(Hit { cpu: e.cpu, text: format!("{}: {text}", c.text) })
                }),
            };
            hit = hit.or(found);
        }
        self.seen = machine.event_count();
        hit
    }
}

/// The key of the look-up that a CPU is in: the program's second argument is still there.
fn looked_up(machine: &Machine, cpu: CpuId, bytes: usize) -> Option<Vec<u8>> {
    let at = machine.regs_of(cpu)?.get(spec(machine.arch()).bpf[2]);
    machine.kernel.mem.read_vec(at, bytes).ok()
}

/// What an update or deletion did to a value.
fn changed(was: &Option<Vec<u8>>, is: &Option<Vec<u8>>, op: Option<Op>) -> Option<&'static str> {
    let (did, what) = match (was, is) {
        (None, Some(_)) => (Op::Update, "the key is new"),
        (Some(_), None) => (Op::Delete, "the key is gone"),
        (Some(a), Some(b)) if a != b => (Op::Update, "the value is another"),
        _ => return None,
    };
    op.is_none_or(|o| o == did).then_some(what)
}

/// The bytes at a key, of all CPUs.
fn value(k: &Kernel, map: MapId, key: &[u8]) -> Option<Vec<u8>> {
    let size = k.map(map)?.def.value_size as usize;
    Some(match k.map_entry(map, key)? {
        Entry::Values(all) => {
            let read = |at: u64| k.mem.read_vec(at, size).unwrap_or_default();
            all.into_iter().flat_map(read).collect()
        }
        Entry::Prog(id) => id.0.to_le_bytes().to_vec(),
        Entry::Group(group) => k.cgroup_path(group).as_bytes().to_vec(),
        Entry::Map(id) => id.0.to_le_bytes().to_vec(),
        Entry::Bytes(bytes) => bytes,
    })
}

/// Look-ups in maps of these types are inlined.
fn is_array(k: &Kernel, map: MapId) -> bool {
    let of = k.map(map).map(|m| m.def.map_type);
    of.is_some_and(|t| matches!(t, MapType::Array | MapType::PercpuArray))
}

/// What of it never is an event, because the verifier made plain instructions of the calls.
fn inlined(k: &Kernel, what: &What) -> String {
    let wanted = match what {
        What::Helper(name) => name,
        What::Map(map, None | Some(Op::Lookup)) if is_array(k, *map) => "map_lookup_elem",
        _ => return String::new(),
    };
    let (mut all, mut gone) = (0, 0);
    for p in k.progs.values() {
        let v = &p.verified;
        let mut became: BTreeMap<u32, bool> = BTreeMap::new();
        for (_, insn, facts) in v.insns() {
            *became.entry(facts.orig.0).or_default() |= matches!(insn, Insn::Call(_));
        }
        for (n, insn) in (0..).zip(&v.program().insns) {
            let Insn::Call(Call::Helper(id)) = insn else { continue };
            if kernel_model::helpers::name(*id).map(bare) == Some(wanted) {
                all += u32::from(became.contains_key(&n));
                gone += u32::from(became.get(&n) == Some(&false));
            }
        }
    }
    if gone == 0 {
        return String::new();
    }
    format!(
        "{gone} of {all} calls of {wanted} are inlined, as in the kernel, and stop nothing: \
         put a breakpoint on their lines\n"
    )
}

/// Whether an event is what is waited for, in words.
fn happened(what: &What, k: &Kernel, e: &Event) -> Option<String> {
    match (what, &e.kind) {
        (What::Helper(wanted), EventKind::HelperCall { name, ret, prog, .. }) => {
            let ret = ret.map_or("..".to_owned(), |r| r.to_string());
            let by = || names::prog_name(k, *prog);
            (wanted == bare(name)).then(|| format!("called by {}, = {ret}", by()))
        }
        (What::Map(map, op), EventKind::HelperCall { name, args, prog, .. }) => {
            let did = match bare(name) {
                "map_lookup_elem" | "map_lookup_percpu_elem" => Op::Lookup,
                "map_update_elem" | "map_push_elem" => Op::Update,
                "map_delete_elem" | "map_pop_elem" => Op::Delete,
                _ => return None,
            };
            let addr = k.map(*map)?.addr;
            let same = args.first() == Some(&kernel_model::event::Value::Num(addr));
            (same && op.is_none_or(|o| o == did))
                .then(|| format!("{} by {}", full(name), names::prog_name(k, *prog)))
        }
        (What::Lock(wanted), EventKind::HelperCall { name, args, prog, .. }) => {
            let takes =
                matches!(bare(name), "spin_lock" | "res_spin_lock" | "res_spin_lock_irqsave");
            let Some(kernel_model::event::Value::Num(addr)) = args.first() else { return None };
            (takes && k.lock_name(LockId::Word(*addr)) == *wanted)
                .then(|| format!("taken by {}", names::prog_name(k, *prog)))
        }
        (What::Verdict(wanted), EventKind::Verdict { prog, name, .. }) => {
            (wanted == name).then(|| format!("by {}", names::prog_name(k, *prog)))
        }
        (What::Drop(wanted), EventKind::Drop { reason }) => {
            wanted.as_ref().is_none_or(|w| w == reason).then(|| (*reason).to_owned())
        }
        (What::Packet(n), EventKind::Enter { prog }) => {
            let queues = k.net.nics.values().flat_map(|n| &n.queues);
            let taken: u64 = queues.map(|q| q.consumed).sum();
            (taken == *n).then(|| format!("enters {}", names::prog_name(k, *prog)))
        }
        (What::Exit(wanted, value), EventKind::Exit { prog, ret }) => {
            let ret = *ret as u32;
            let same = wanted.is_none_or(|w| w == *prog) && value.is_none_or(|v| v == ret);
            same.then(|| format!("{} = {ret}", names::prog_name(k, *prog)))
        }
        (What::TailCall, EventKind::TailCall { from, to }) => {
            Some(format!("{} -> {}", names::prog_name(k, *from), names::prog_name(k, *to)))
        }
        _ => None,
    }
}

fn parse(k: &Kernel, args: &[&str]) -> Result<What, String> {
    let (kind, rest) = args.split_first().ok_or(USAGE)?;
    let one = || match rest {
        [one] => Ok(*one),
        _ => Err(format!("`break {kind}` takes one name; {USAGE}")),
    };
    match *kind {
        "helper" => helper(one()?),
        "map" => map(k, rest),
        "lock" => Ok(What::Lock(one()?.to_owned())),
        "verdict" => Ok(What::Verdict(one()?.to_owned())),
        "drop" => match rest {
            [] => Ok(What::Drop(None)),
            [reason] if kernel_model::net::is_drop_reason(reason) => {
                Ok(What::Drop(Some((*reason).to_owned())))
            }
            _ => Err(format!("`{}` is no reason of a drop", rest.join(" "))),
        },
        "packet" => match number(one()?)? {
            0 => Err("packets are numbered from 1".to_owned()),
            n => Ok(What::Packet(n)),
        },
        "prog-exit" => {
            let (name, value) = match rest {
                [] => (None, None),
                ["=", value] => (None, Some(*value)),
                [name] => (Some(*name), None),
                [name, "=", value] => (Some(*name), Some(*value)),
                _ => return Err(USAGE.to_owned()),
            };
            let prog = name.map(|n| names::prog(k, n).map(|p| p.id)).transpose()?;
            let value = value.map(number).transpose()?;
            Ok(What::Exit(prog, value.map(|v| v as u32)))
        }
        "tail-call" => no_more(rest).map(|()| What::TailCall),
        other => Err(format!("`{other}` is no kind of event; {USAGE}")),
    }
}

/// A helper or kernel function that exists.
fn helper(name: &str) -> Result<What, String> {
    let wanted = bare(name);
    let helpers = (1..300).filter_map(kernel_model::helpers::name);
    let all: Vec<&str> = helpers.chain(kernel_model::kfuncs::modelled()).map(bare).collect();
    match all.contains(&wanted) {
        true => Ok(What::Helper(wanted.to_owned())),
        false => Err(match scenarios::leaf::suggest(wanted, all.iter().copied()) {
            Some(s) => format!("no helper or kernel function `{name}`; did you mean `{s}`?"),
            None => format!("no helper or kernel function `{name}`"),
        }),
    }
}

fn map(k: &Kernel, args: &[&str]) -> Result<What, String> {
    let (name, mut rest) = args.split_first().ok_or(USAGE)?;
    let map = names::map(k, name)?;
    let mut key = None;
    if let ["key", text, more @ ..] = rest {
        let types = MapTypes::of(k, &map.def);
        key = Some(types.bytes(types.key, text, vec![0; map.def.key_size as usize])?);
        rest = more;
    }
    let op = match rest {
        [] => None,
        ["lookup"] => Some(Op::Lookup),
        ["update"] => Some(Op::Update),
        ["delete"] => Some(Op::Delete),
        _ => return Err(USAGE.to_owned()),
    };
    Ok(match key {
        Some(key) => What::Key(map.id, key, op),
        None => What::Map(map.id, op),
    })
}
