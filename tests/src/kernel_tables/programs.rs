//! Malformed programs: as they are, and accepted instructions with one field changed.

use bpf::insn::Slot;
use bpf::uapi::{AttachType, ProgType};

use super::kernel::{ARRAY, HASH, Kernel, ONE, Variant};
use super::{Found, table};

/// What precedes the instruction in question, as a `socket_filter`.
const PRE: &str =
    "b700000001000000b702000001000000bf16000000000000bfa30000000000007a0af8ff00000000";
/// What follows it.
const SUF: &str = "b700000000000000b7000000000000009500000000000000";
/// Categories of which the table has one instruction.
const PARTIAL: &[&str] = &["opcode256", "atomic_operands", "load_acquire", "store_release"];
/// Descriptors of the tables' programs: an array, a hash map, an array of one entry.
const DESCRIPTORS: [(i32, usize); 3] = [(4, ARRAY), (5, HASH), (6, ONE)];

fn slots(hex: &str) -> Option<Vec<Slot>> {
    let byte = |i: usize| u8::from_str_radix(hex.get(i..i + 2)?, 16).ok();
    let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect::<Option<_>>()?;
    let (chunks, rest) = bytes.as_chunks::<8>();
    let slot = |b: &[u8; 8]| Slot::from_bytes(*b, bpf::Endian::Little);
    rest.is_empty().then(|| chunks.iter().map(slot).collect())
}

/// Gives map references the descriptors the maps have here.
fn with_maps(mut slots: Vec<Slot>) -> Vec<Slot> {
    for s in slots.iter_mut().filter(|s| s.code == 0x18 && matches!(s.src, 1 | 2)) {
        if let Some((_, map)) = DESCRIPTORS.iter().find(|d| d.0 == s.imm) {
            s.imm = verifier::env::BtfKernel::fd(*map);
        }
    }
    slots
}

/// The programs that the table leaves out for their length.
fn long(category: &str, case: &str) -> Option<Vec<Slot>> {
    let s = |code, dst, src, off, imm| Slot { code, dst, src, off, imm };
    let (mov, exit) = (s(0xb7, 0, 0, 0, 0), s(0x95, 0, 0, 0, 0));
    let count = || case.split_whitespace().find_map(|w| w.parse::<usize>().ok());
    match category {
        "length" => {
            let n = count()?;
            Some((0..n - 1).map(|_| mov).chain([exit]).collect())
        }
        "subprog_count" => {
            // The main program calls each of the others, which follow it.
            let n = count()? - 1;
            let (start, len) = (n as i32 + 2, 2);
            let call = |i: usize| s(0x85, 0, 1, 0, start + len * i as i32 - (i as i32 + 1));
            let main = (0..n).map(call).chain([mov, exit]);
            Some(main.chain((0..n).flat_map(|_| [mov, exit])).collect())
        }
        "map_count" => {
            let fd = |i| verifier::env::BtfKernel::fd(i);
            let load = |i| [s(0x18, 1, 1, 0, fd(i)), s(0, 0, 0, 0, 0)];
            Some((0..count()?).flat_map(load).chain([mov, exit]).collect())
        }
        _ => None,
    }
}

/// The values of a case such as "flags 1<<0 1<<4" or "values 0-59 255".
fn values(case: &str) -> Vec<u64> {
    let one = |w: &str| match w.split_once("<<") {
        Some((a, b)) => Some(a.parse::<u64>().ok()? << b.parse::<u32>().ok()?),
        None => w.parse().ok(),
    };
    let range = |w: &str| match w.split_once('-') {
        Some((a, b)) => (one(a).unwrap_or(1)..=one(b).unwrap_or(0)).collect(),
        None => one(w).into_iter().collect::<Vec<u64>>(),
    };
    case.split_whitespace().skip(1).flat_map(range).collect()
}

/// Programs that the kernel refuses, or just does not.
pub(super) fn malformed(kernel: &Kernel, found: &mut Found) {
    const TABLE: &str = "prog_load_errors.tsv";
    for row in table(TABLE) {
        let (category, case) = (row["category"].as_str(), row["case"].as_str());
        let ty = ProgType::from_name(&row["prog_type"]).unwrap_or(ProgType::SocketFilter);
        let hex = &row["insns_hex"];
        let hex =
            if PARTIAL.contains(&category) { format!("{PRE}{hex}{SUF}") } else { hex.clone() };
        let Some(slots) = slots(&hex).or_else(|| long(category, case)) else { continue };
        let slots = with_maps(slots);
        // Ids of types are those of one build of a kernel.
        let foreign = case.contains("vmlinux FUNC") || case.contains("kfunc valid id");
        let needs = case.contains("kfunc") || case.contains("btf");
        if foreign {
            continue;
        }
        if needs && !kernel.has_btf() {
            found.skipped += 1;
            continue;
        }
        // What fentry, LSM and freplace programs are refused for was the policy of the machine.
        if row["errno"] == "EPERM" {
            continue;
        }
        let license = if case.contains("non-GPL") { "Proprietary" } else { "GPL" };
        for (value, v) in variants(kernel, category, case, ty) {
            let answer = kernel.ask_slots(&v, &slots, license);
            let key = format!("{} {category} {}{value}", row["prog_type"], short(case));
            // The tested immediate is left out of the table's message.
            let imm = format!("{:02x}", slots.get(5).map_or(0, |s| s.imm));
            let message = row["message"].replace("<imm %02x>", &imm);
            let expected = format!("{} {message}", row["errno"]);
            let ours = format!("{} {}", answer.errno, answer.message);
            found.judge(TABLE, key, expected.trim_end(), ours.trim_end());
        }
    }
}

/// The kinds of program a row counts for, with the value that tells them apart.
fn variants(kernel: &Kernel, category: &str, case: &str, ty: ProgType) -> Vec<(String, Variant)> {
    let values = || values(case).into_iter().filter_map(|v| u32::try_from(v).ok());
    let of_flags = |flags| match ty {
        ProgType::Tracing => kernel.with_flags("tracing:iter/task", flags),
        _ => Some(Kernel::plain(ty, attach(ty), flags)),
    };
    // A program has no attach type that has no name: the system call refuses it.
    let named = |v: &u32| *v == 0 || AttachType::from_raw(*v).is_some();
    match category {
        "prog_flags" => values().filter_map(|v| Some((format!(" {v}"), of_flags(v)?))).collect(),
        "expected_attach_type" => values()
            .filter(named)
            .map(|v| (format!(" {v}"), Kernel::plain(ty, v, flags(ty))))
            .collect(),
        _ => vec![(String::new(), Kernel::plain(ty, attach(ty), flags(ty)))],
    }
}

fn short(case: &str) -> &str {
    match case.starts_with("flags ") || case.starts_with("values ") {
        true => case.split(' ').next().unwrap_or_default(),
        false => case,
    }
}

/// An attach type the program type takes.
fn attach(ty: ProgType) -> u32 {
    match ty {
        ProgType::CgroupSockAddr => 10,
        ProgType::CgroupSockopt => 21,
        ProgType::SkLookup => 36,
        ProgType::Netfilter => 45,
        ProgType::SkReuseport => 39,
        _ => 0,
    }
}

fn flags(ty: ProgType) -> u32 {
    if ty == ProgType::Syscall { 1 << 4 } else { 0 }
}

/// Applies `dst=2`, `off=-1`, ... to an instruction.
fn mutate(mut insn: Slot, change: &str) -> Option<Slot> {
    let (field, value) = change.split_once('=')?;
    let value: i64 = value.parse().ok()?;
    match field {
        "dst" => insn.dst = u8::try_from(value).ok()?,
        "src" => insn.src = u8::try_from(value).ok()?,
        "off" => insn.off = i16::try_from(value).ok()?,
        "imm" => insn.imm = i32::try_from(value).ok()?,
        _ => return None,
    }
    Some(insn)
}

/// One field of an accepted instruction changed.
pub(super) fn mutated(kernel: &Kernel, found: &mut Found) {
    const TABLE: &str = "prog_load_mutations.tsv";
    let v = Kernel::plain(ProgType::SocketFilter, 0, 0);
    for row in table(TABLE) {
        let canon = slots(&row["canon_insn_hex"]).expect("hex");
        for change in row["mutations_giving_this"].split_whitespace() {
            let mut code = canon.clone();
            if change != "base" {
                let Some(first) = mutate(code[0], change) else { continue };
                code[0] = first;
            }
            let all = slots(PRE).into_iter().flatten().chain(code);
            let all: Vec<Slot> = all.chain(slots(SUF).into_iter().flatten()).collect();
            let answer = kernel.ask_slots(&v, &all, "GPL");
            let key = format!("{} {change}", row["op"]);
            let expected = format!("{} {}", row["errno"], row["message"]);
            let ours = format!("{} {}", answer.errno, answer.message);
            found.judge(TABLE, key, expected.trim_end(), ours.trim_end());
        }
    }
}
