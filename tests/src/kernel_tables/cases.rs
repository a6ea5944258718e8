//! Helpers, kernel functions, packets and return values, by kind of program.

use std::collections::BTreeMap;

use bpf::insn::{Call, Insn, Slot};

use super::kernel::{ARRAY, Answer, HASH, Kernel, Variant};
use super::{Found, table};

/// The letter of a cell of `helper_availability.tsv`.
fn letter(answer: &Answer) -> &str {
    let m = &answer.message;
    let says = |text: &str| m.contains(text);
    match () {
        () if says("program of this type cannot use helper") => "N",
        () if says("helper call might sleep in a non-sleepable prog") => "S",
        () if says("helper call is not allowed in probe") => "P",
        () if says("supported only for fentry") || says("not supported for program type") => "F",
        () if says("invalid func") => "U",
        () if answer.errno == "unsupported" => m,
        () => "Y",
    }
}

/// Whether the helpers can be called, by variant; the first instruction is the call.
pub(super) fn helpers(kernel: &Kernel, found: &mut Found) {
    for row in table("helper_availability.tsv") {
        let id: i32 = row["id"].parse().expect("a number");
        let insns = || vec![Insn::Call(Call::Helper(id)), Insn::Exit];
        for (label, cell) in &row {
            let Some(v) = kernel.variant(label) else { continue };
            if kernel.needs_btf(v) {
                found.skipped += 1;
                continue;
            }
            let answer = kernel.ask_insns(v, insns(), "GPL", 0);
            let key = format!("{} {label}", row["name"]);
            found.judge("helper_availability.tsv", key, cell, letter(&answer));
        }
        gpl_only(kernel, found, &row, insns());
    }
}

/// The licence, asked with a variant that may call the helper.
fn gpl_only(kernel: &Kernel, found: &mut Found, row: &BTreeMap<String, String>, insns: Vec<Insn>) {
    let callable = |label: &&String| row[*label] == "Y" && !label.starts_with("struct_ops");
    let labels = row.keys().filter(|l| kernel.variant(l).is_some());
    let mut usable = labels.filter(callable).filter_map(|l| kernel.variant(l));
    let Some(v) = usable.find(|v| !kernel.needs_btf(v)) else { return };
    let expected = row["gpl_only"].as_str();
    if !matches!(expected, "0" | "1") {
        return;
    }
    let answer = kernel.ask_insns(v, insns, "Proprietary", 0);
    let refused = answer.message.contains("cannot call GPL-restricted function");
    let ours = if refused { "1" } else { "0" };
    found.judge("helper_availability.tsv", format!("{} gpl_only", row["name"]), expected, ours);
}

/// What puts a kind of value into R1 and leaves R2 to R5 unset.
fn first_argument(kind: &str) -> String {
    let lookup = format!(
        "*(u32 *)(r10 -68) = 0\nr2 = r10\nr2 += -68\nr1 = map[{ARRAY}] ll\n\
         call bpf_map_lookup_elem"
    );
    let fill: String = (1..=8).map(|i| format!("*(u64 *)(r10 -{}) = 0\n", i * 8)).collect();
    match kind {
        "R1=ctx" => String::new(),
        "R1=scalar0" => "r1 = 0".to_owned(),
        "R1=scalar_unknown" => "call bpf_get_prandom_u32\nr1 = r0".to_owned(),
        "R1=fp-64(init)" => format!("{fill}r1 = r10\nr1 += -64"),
        "R1=fp-64(uninit)" => "r1 = r10\nr1 += -64".to_owned(),
        "R1=array_map_ptr" => format!("r1 = map[{ARRAY}] ll"),
        "R1=hash_map_ptr" => format!("r1 = map[{HASH}] ll"),
        "R1=map_value" => format!("{lookup}\nif r0 == 0 goto out\nr1 = r0"),
        _ => format!("{lookup}\nr1 = r0"),
    }
}

/// Messages about the first argument of every helper.
pub(super) fn first_arguments(kernel: &Kernel, found: &mut Found) {
    for row in table("helper_arg1_messages.tsv") {
        let Some(v) = kernel.variant(&row["variant"]) else { continue };
        if kernel.needs_btf(v) {
            found.skipped += 1;
            continue;
        }
        for (column, expected) in row.iter().filter(|(k, _)| k.starts_with("R1=")) {
            let set = first_argument(column);
            let text = format!("{set}\ncall {}\nout:\nr0 = 1\nexit", row["id"]);
            let answer = kernel.ask(v, &text);
            let key = format!("{} {column}", row["name"]);
            found.judge("helper_arg1_messages.tsv", key, expected, answer.words());
        }
    }
}

/// Packet pointers, LD_ABS, atomics.
pub(super) fn packets(kernel: &Kernel, found: &mut Found) {
    const TABLE: &str = "direct_packet_access.tsv";
    for row in table(TABLE) {
        let Some(v) = kernel.variant(&row["label"]) else { continue };
        if kernel.needs_btf(v) {
            found.skipped += 1;
            continue;
        }
        let key = |what: &str| format!("{} {what}", v.label);
        let abs = kernel.ask(v, "r6 = r1\nr0 = *(u8 *)skb[0]\nr0 = 1\nexit");
        let expected = if row["ld_abs"] == "1" { "ok" } else { &row["ld_abs_msg"] };
        found.judge(TABLE, key("ld_abs"), expected, abs.words());
        let atomic = "r2 = 1\nlock *(u64 *)(r1 +0) += r2\nr0 = 1\nexit";
        let answer = kernel.ask(v, atomic);
        found.judge(TABLE, key("atomic_on_ctx"), &row["atomic_on_ctx_msg"], answer.words());
        if row["data_off"].is_empty() {
            continue;
        }
        let (data, end) = (&row["data_off"], &row["data_end_off"]);
        let size = if v.label.starts_with("cgroup_sockopt") || v.label.starts_with("sk_reuseport") {
            "u64"
        } else {
            packet_size(&row)
        };
        let get = format!(
            "r6 = *({size} *)(r1 +{data})\nr7 = *({size} *)(r1 +{end})\nr8 = r6\nr8 += 8\n\
             if r8 > r7 goto out"
        );
        let cases = [
            ("pkt_read", "read_msg", "r0 = *(u8 *)(r6 +0)"),
            ("pkt_write", "write_msg", "*(u8 *)(r6 +0) = 0"),
        ];
        for (column, message, insn) in cases {
            let text = format!("{get}\n{insn}\nout:\nr0 = 1\nexit");
            let expected = if row[column] == "1" { "ok" } else { &row[message] };
            found.judge(TABLE, key(column), expected, kernel.ask(v, &text).words());
        }
        let text = format!("{get}\nr2 = 1\nlock *(u64 *)(r6 +0) += r2\nout:\nr0 = 1\nexit");
        let answer = kernel.ask(v, &text);
        found.judge(TABLE, key("atomic_on_pkt"), &row["atomic_on_pkt_msg"], answer.words());
    }
}

/// The size that gives a packet pointer: 4 bytes in `__sk_buff` and `xdp_md`, 8 elsewhere.
fn packet_size(row: &BTreeMap<String, String>) -> &'static str {
    let offs = ["data_off", "data_end_off"].map(|c| row[c].parse::<i32>().unwrap_or(0));
    if offs[1] - offs[0] == 8 { "u64" } else { "u32" }
}

/// The value of a constant of `return_ranges.tsv` as instructions.
fn constant(text: &str) -> String {
    let wide = |v: u64| format!("r0 = {v:#x} ll");
    match text {
        "1<<32" => wide(1 << 32),
        "(1<<32)|1" => wide(1 << 32 | 1),
        "0xffffffff" => wide(0xffff_ffff),
        "-1LL(ld64)" => wide(u64::MAX),
        n => format!("r0 = {n}"),
    }
}

/// The words of `return_ranges.tsv` for an outcome: only errors of one column have their message.
fn returned(kernel: &Kernel, v: &Variant, text: &str) -> Answer {
    kernel.ask(v, &format!("{text}\nexit"))
}

/// Accepted return values.
pub(super) fn returns(kernel: &Kernel, found: &mut Found) {
    const TABLE: &str = "return_ranges.tsv";
    for row in table(TABLE) {
        for attach in row["attach_labels"].split(',') {
            let label = match attach {
                "-" => row["type"].clone(),
                a => format!("{}:{a}", row["type"]),
            };
            let Some(v) = kernel.variant(&label) else { continue };
            if kernel.needs_btf(v) {
                found.skipped += 1;
                continue;
            }
            let key = |what: &str| format!("{label} {what}");
            let refused = if row["error_const_example"].is_empty() { "EACCES" } else { "EINVAL" };
            let columns = [("accepted_constants", "ok"), ("rejected_constants", refused)];
            for (column, expected) in columns {
                for c in row[column].split_whitespace() {
                    let answer = returned(kernel, v, &constant(c));
                    found.judge(TABLE, key(c), expected, answer.errno);
                }
            }
            let random = "call bpf_get_prandom_u32";
            let unknown = format!("{random}\nr6 = r0\n{random}\nr0 *= r6\nr0 *= r6");
            let extended = format!("{random}\nr0 = (s32)r0");
            let texts = [
                ("unknown_scalar", unknown.as_str()),
                ("unknown_u32", random),
                ("unknown_i32_sx", extended.as_str()),
                ("ctx_ptr_return", "r0 = r1"),
                ("null_r0_uninit", ""),
            ];
            for (column, text) in texts.into_iter().filter(|t| row[t.0] != "-") {
                let answer = returned(kernel, v, text);
                found.judge(TABLE, key(column), &row[column], answer.errno);
            }
            let messages = [
                ("error_const_example", "r0 = -4096"),
                ("error_unknown_scalar", unknown.as_str()),
                ("error_ctx_ptr", "r0 = r1"),
            ];
            for (column, text) in messages.into_iter().filter(|t| !row[t.0].is_empty()) {
                let answer = returned(kernel, v, text);
                found.judge(TABLE, key(column), &row[column], answer.words());
            }
        }
    }
}

/// Which kernel functions a kind of program may call.
pub(super) fn kfuncs(kernel: &Kernel, found: &mut Found) {
    for row in table("kfunc_availability.tsv") {
        let name = &row["name"];
        for (label, cell) in &row {
            let Some(v) = kernel.variant(label) else { continue };
            let Some(id) = kernel.function(name) else {
                found.skipped += 1;
                continue;
            };
            let call = Slot { code: 0x85, dst: 0, src: 2, off: 0, imm: id.cast_signed() };
            let exit = Slot { code: 0x95, dst: 0, src: 0, off: 0, imm: 0 };
            let answer = kernel.ask_slots(v, &[call, exit], "GPL");
            let m = &answer.message;
            let ours = match () {
                () if m.starts_with("calling kernel function") && m.ends_with("is not allowed") => {
                    "N"
                }
                () if m.contains("program must be sleepable to call sleepable kfunc") => "S",
                () if answer.errno == "unsupported" => m,
                () => "Y",
            };
            found.judge("kfunc_availability.tsv", format!("{name} {label}"), cell, ours);
        }
    }
}
