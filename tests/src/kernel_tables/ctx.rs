//! Fields: of contexts, and through pointers to sockets and flow keys.
//!
//! The programs return 1, which every kind of program may.

use std::collections::BTreeMap;

use bpf::insn::asm::assemble_insns;

use super::kernel::{Kernel, Variant, XSKMAP};
use super::{Found, table};

const SIZES: [(u32, &str); 4] = [(1, "u8"), (2, "u16"), (4, "u32"), (8, "u64")];

fn c_type(size: &str) -> &'static str {
    SIZES.iter().find(|s| s.0.to_string() == size).map_or("u64", |s| s.1)
}

/// The labels of the variants of a group: one table counts for all of them.
fn labels(row: &BTreeMap<String, String>) -> Vec<String> {
    let attach = row["attach_types_with_identical_table"].split(',');
    let label = |a: &str| match a {
        "-" => row["type"].clone(),
        a => format!("{}:{a}", row["type"]),
    };
    attach.map(label).collect()
}

/// The state of R6 in a line of the log.
fn state_of_r6(log: &str) -> Option<&str> {
    let at = log.find(" R6=").map(|at| at + 4).or_else(|| log.find(" R6_w=").map(|at| at + 6))?;
    let rest = &log[at..];
    let mut depth = 0i32;
    let ends = |c: char| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        depth == 0 && (c.is_whitespace() || c == ')')
    };
    let end =
        rest.find(ends).map_or(rest.len(), |end| end + usize::from(rest[end..].starts_with(')')));
    Some(rest[..end].trim_end())
}

/// The four plain scalars have short names in the tables.
fn short(state: &str) -> &str {
    match state {
        "scalar()" => "u64",
        "scalar(smin=0,smax=umax=0xffffffff,var_off=(0x0; 0xffffffff))" => "u32",
        "scalar(smin=smin32=0,smax=umax=smax32=umax32=0xffff,var_off=(0x0; 0xffff))" => "u16",
        "scalar(smin=smin32=0,smax=umax=smax32=umax32=65535,var_off=(0x0; 0xffff))" => "u16",
        "scalar(smin=smin32=0,smax=umax=smax32=umax32=255,var_off=(0x0; 0xff))" => "u8",
        other => other,
    }
}

/// What a read of a context field gives: the state of the register, or the message.
fn read(kernel: &Kernel, v: &Variant, ty: &str, off: i32) -> String {
    let text = format!("r6 = *({ty} *)(r1 {off:+})\nr0 = 1\nexit");
    let insns = assemble_insns(&text).expect("the text is ours");
    let answer = kernel.ask_insns(v, insns, "GPL", 2);
    if !answer.ok() {
        return answer.message;
    }
    state_of_r6(&answer.log).map_or_else(|| "?".to_owned(), |s| short(s).to_owned())
}

fn write(kernel: &Kernel, v: &Variant, ty: &str, off: i32, value: &str) -> String {
    let text = format!("r2 = 0\n*({ty} *)(r1 {off:+}) = {value}\nr0 = 1\nexit");
    kernel.ask(v, &text).words().to_owned()
}

/// Every offset and size of every context: what is in no row is refused.
pub(super) fn fields(kernel: &Kernel, found: &mut Found) {
    let mut rows: BTreeMap<(String, i32, String), BTreeMap<String, String>> = BTreeMap::new();
    for row in table("ctx_access.tsv") {
        let off = row["offset"].parse().expect("a number");
        rows.insert((row["group"].clone(), off, row["size"].clone()), row);
    }
    for group in table("ctx_access_groups.tsv") {
        let (from, to) = group["scanned_offsets"].split_once("..").expect("a range");
        let range: (i32, i32) = (from.parse().expect("first"), to.parse().expect("last"));
        for label in labels(&group) {
            let Some(v) = kernel.variant(&label) else { continue };
            if kernel.needs_btf(v) {
                found.skipped += 1;
                continue;
            }
            for off in range.0..=range.1 {
                for (size, ty) in SIZES {
                    let row = rows.get(&(group["group"].clone(), off, size.to_string()));
                    field(kernel, found, v, row, (off, size, ty));
                }
            }
        }
    }
}

fn field(
    kernel: &Kernel,
    found: &mut Found,
    v: &Variant,
    row: Option<&BTreeMap<String, String>>,
    (off, size, ty): (i32, u32, &str),
) {
    let invalid = format!("invalid bpf_context access off={off} size={size}");
    let cell = |name: &str| row.is_some_and(|r| r[name] == "1");
    let expected = match row {
        Some(r) if cell("read") => r["result_reg"].as_str(),
        _ => &invalid,
    };
    let ours = read(kernel, v, ty, off);
    let key = |what: &str| format!("{} {what} {ty} {off}", v.label);
    found.judge("ctx_access.tsv", key("read"), expected, &ours);
    for (column, value) in [("write_stx", "r2"), ("write_st", "0")] {
        let expected = if cell(column) { "ok" } else { &invalid };
        let ours = write(kernel, v, ty, off, value);
        found.judge("ctx_access.tsv", key(column), expected, &ours);
    }
}

/// The read and the write program of a case of `ctx_access_edges.tsv`.
fn edge(case: &str) -> (String, String) {
    let end = "r0 = 1\nexit";
    let plain = |ty: &str, off: &str| {
        let read = format!("r0 = *({ty} *)(r1 +{off})\n{end}");
        (read, format!("r2 = 0\n*({ty} *)(r1 +{off}) = r2\n{end}"))
    };
    if let Some((ty, off)) = case.split_once(" at off ") {
        return match ty.strip_prefix("lds") {
            Some(s) => {
                let ty = s.trim_start_matches("x ");
                (format!("r0 = *({ty} *)(r1 +{off})\n{end}"), String::new())
            }
            None => plain(ty, off),
        };
    }
    let moved = |add: &str, off: &str| {
        let read = format!("{add}\nr0 = *(u32 *)(r1 {off})\n{end}");
        (read, format!("{add}\nr2 = 0\n*(u32 *)(r1 {off}) = r2\n{end}"))
    };
    match case {
        "r1 += 0; u32 at 0" => moved("r1 += 0", "+0"),
        "r1 += 8; u32 at 0" => moved("r1 += 8", "+0"),
        "r1 += 8; u32 at -8" => moved("r1 += 8", "-8"),
        "r1 += -8; u32 at 8" => moved("r1 += -8", "+8"),
        "r1 += unknown scalar&4" => {
            let add = "r6 = r1\ncall bpf_get_prandom_u32\nr0 &= 4\nr1 = r6\nr1 += r0";
            moved(add, "+0")
        }
        "store fp to ctx off 0" => (String::new(), format!("*(u64 *)(r1 +0) = r10\n{end}")),
        _ => {
            let read = format!("r0 = *(s8 *)(r1 +0)\n{end}");
            (read, format!("*(u64 *)(r1 +0) = r10\n{end}"))
        }
    }
}

/// Far offsets, modified context pointers, sign-extending loads, stores of pointers.
pub(super) fn edges(kernel: &Kernel, found: &mut Found) {
    for row in table("ctx_access_edges.tsv") {
        let Some(v) = kernel.variant(&row["variant"]) else { continue };
        if kernel.needs_btf(v) {
            found.skipped += 1;
            continue;
        }
        let (read, write) = edge(&row["case"]);
        for (what, text) in [("read", read), ("write", write)] {
            let (errno, message) =
                (&row[&format!("{what}_errno")], &row[&format!("{what}_message")]);
            if errno.is_empty() || text.is_empty() {
                continue;
            }
            let expected = if errno == "ok" { "ok" } else { message };
            let answer = kernel.ask(v, &text);
            let key = format!("{} {what} {}", v.label, row["case"]);
            found.judge("ctx_access_edges.tsv", key, expected, answer.words());
        }
    }
}

/// The label of a variant and a program that leaves the pointer in R6.
fn pointer(name: &str) -> (&'static str, String) {
    let sk = "r6 = *(u64 *)(r1 +168)\nif r6 == 0 goto out";
    match name {
        "sock_common" => ("sched_cls", sk.to_owned()),
        "sock" => (
            "sched_cls",
            format!("{sk}\nr1 = r6\ncall bpf_sk_fullsock\nif r0 == 0 goto out\nr6 = r0"),
        ),
        "tcp_sock" => {
            ("sched_cls", format!("{sk}\nr1 = r6\ncall bpf_tcp_sock\nif r0 == 0 goto out\nr6 = r0"))
        }
        "xdp_sock" => (
            "xdp",
            format!(
                "*(u32 *)(r10 -4) = 0\nr2 = r10\nr2 += -4\nr1 = map[{XSKMAP}] ll\n\
                 call bpf_map_lookup_elem\nif r0 == 0 goto out\nr6 = r0"
            ),
        ),
        _ => ("flow_dissector:flow_dissector", "r6 = *(u64 *)(r1 +144)".to_owned()),
    }
}

/// Fields through pointers to sockets and flow keys.
pub(super) fn pointers(kernel: &Kernel, found: &mut Found) {
    for row in table("pointer_access.tsv") {
        let (label, get) = pointer(&row["pointer"]);
        let v = kernel.variant(label).expect("the variant is in the table");
        let (ty, off) = (c_type(&row["size"]), &row["offset"]);
        let sign = if off.starts_with('-') { "" } else { "+" };
        let key = |what: &str| format!("{} {what} {ty} {off}", row["pointer"]);
        let text = format!("{get}\nr0 = *({ty} *)(r6 {sign}{off})\nout:\nr0 = 1\nexit");
        let expected = if row["read"] == "1" { "ok" } else { &row["read_error_example"] };
        found.judge("pointer_access.tsv", key("read"), expected, kernel.ask(v, &text).words());
        let text = format!("{get}\nr2 = 0\n*({ty} *)(r6 {sign}{off}) = r2\nout:\nr0 = 1\nexit");
        let expected = if row["write_stx"] == "1" { "ok" } else { &row["write_error_example"] };
        found.judge("pointer_access.tsv", key("write"), expected, kernel.ask(v, &text).words());
    }
}
