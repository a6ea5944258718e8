//! Records of tracepoints: what `TP_fast_assign` of include/trace/events puts into a perf
//! event's buffer. A row fills one struct of the type table.

use crate::cpu::CpuId;
use crate::types::{Types, tracepoints};
use crate::{Kernel, field};

/// A record under construction.
struct Record<'k> {
    k: &'k Kernel,
    types: &'static Types,
    name: &'static str,
    bytes: Vec<u8>,
    cpu: CpuId,
}

/// Fills a record from the arguments of its tracepoint.
type Fill = fn(&mut Record<'_>, &[u64]);

/// Structs and how they are filled.
const FILLS: &[(&str, Fill)] = &[
    ("trace_event_raw_kfree_skb", kfree_skb),
    ("trace_event_raw_consume_skb", consume_skb),
    ("trace_event_raw_net_dev_template", net_dev),
    ("trace_event_raw_net_dev_xmit", net_dev_xmit),
    ("trace_event_raw_net_dev_start_xmit", net_dev_start_xmit),
    ("trace_event_raw_net_dev_rx_verbose_template", rx_verbose),
    ("trace_event_raw_napi_poll", napi_poll),
    ("trace_event_raw_xdp_exception", xdp_exception),
    ("trace_event_raw_xdp_redirect_template", xdp_redirect),
    ("trace_event_raw_xdp_devmap_xmit", xdp_devmap_xmit),
    ("trace_event_raw_xdp_cpumap_enqueue", xdp_cpumap_enqueue),
    ("trace_event_raw_xdp_cpumap_kthread", xdp_cpumap_kthread),
    ("trace_event_raw_xdp_bulk_tx", xdp_bulk_tx),
    ("trace_event_raw_sys_enter", sys_enter),
    ("trace_event_raw_sys_exit", sys_exit),
    ("trace_event_raw_sched_switch", sched_switch),
    ("trace_event_raw_sched_wakeup_template", sched_wakeup),
    ("trace_event_raw_sched_migrate_task", sched_migrate_task),
    ("trace_event_raw_sched_process_template", sched_process),
    ("trace_event_raw_sched_process_fork", sched_process_fork),
    ("trace_event_raw_sched_process_exec", sched_process_exec),
    ("trace_event_raw_sched_process_exit", sched_process_exit),
    ("trace_event_raw_bpf_trace_printk", bpf_trace_printk),
    ("trace_event_raw_bpf_test_finish", bpf_test_finish),
    ("trace_event_raw_softirq", softirq),
    ("trace_event_raw_irq_handler_entry", irq_entry),
    ("trace_event_raw_irq_handler_exit", irq_exit),
    ("trace_event_raw_contention_begin", contention_begin),
    ("trace_event_raw_contention_end", contention_end),
    ("trace_event_raw_inet_sock_set_state", inet_sock_set_state),
];

/// The record of a tracepoint's row.
pub(super) fn bytes(k: &Kernel, cpu: CpuId, tracepoint: usize, args: &[u64]) -> Vec<u8> {
    let name = tracepoints()[tracepoint].record.as_str();
    let types = Types::of(k.config.arch);
    let size = types.size(name).expect("a struct of the type table") as usize;
    // __data is where the members end; the struct itself is padded.
    let end = types.field(name, "__data").expect("records end with __data").off as usize;
    let mut r = Record { k, types, name, bytes: vec![0; end], cpu };
    let mut all = args.to_vec();
    all.resize(8, 0);
    let (_, fill) = FILLS.iter().find(|f| f.0 == name).expect("every record has a row");
    fill(&mut r, &all);
    let size = r.bytes.len().max(size).next_multiple_of(8);
    r.bytes.resize(size, 0);
    r.bytes
}

impl Record<'_> {
    fn put(&mut self, at: usize, size: usize, value: u64) {
        let b = match self.k.mem.endian() {
            bpf::Endian::Little => value.to_le_bytes()[..size].to_vec(),
            bpf::Endian::Big => value.to_be_bytes()[8 - size..].to_vec(),
        };
        self.bytes[at..at + size].copy_from_slice(&b);
    }

    /// A number.
    fn num(&mut self, member: &str, value: u64) {
        let f = self.types.field(self.name, member).expect("a member of the record");
        self.put(f.off as usize, f.size as usize, value);
    }

    fn nums(&mut self, members: &[(&str, u64)]) {
        members.iter().for_each(|(m, v)| self.num(m, *v));
    }

    /// Text in an array of fixed size.
    fn text(&mut self, member: &str, value: &[u8]) {
        let f = self.types.field(self.name, member).expect("a member of the record");
        let n = value.len().min(f.size as usize);
        self.bytes[f.off as usize..][..n].copy_from_slice(&value[..n]);
    }

    /// Text behind the record; the member says where (`__data_loc`).
    fn data_loc(&mut self, member: &str, value: &[u8]) {
        let loc = (value.len() as u64 + 1) << 16 | self.bytes.len() as u64;
        self.bytes.extend(value);
        self.bytes.push(0);
        self.num(member, loc);
    }

    /// Reads a member of an object; 0 for a pointer that leads nowhere.
    fn read(&self, object: u64, f: crate::types::Field) -> u64 {
        self.k.mem.read_uint(object.wrapping_add(f.off.into()), f.size).unwrap_or(0)
    }

    fn c_text(&self, at: u64, max: usize) -> Vec<u8> {
        let byte = |i: usize| self.k.mem.read_u8(at.wrapping_add(i as u64)).ok();
        (0..max).map_while(byte).take_while(|b| *b != 0).collect()
    }

    fn dev_name(&self, dev: u64) -> Vec<u8> {
        self.c_text(dev.wrapping_add(field!("net_device", "name").off.into()), 15)
    }

    fn comm(&self, task: u64) -> Vec<u8> {
        self.c_text(task.wrapping_add(field!("task_struct", "comm").off.into()), 15)
    }

    fn pid(&self, task: u64) -> u64 {
        self.read(task, field!("task_struct", "pid"))
    }

    fn ifindex(&self, dev: u64) -> u64 {
        if dev == 0 { 0 } else { self.read(dev, field!("net_device", "ifindex")) }
    }

    fn prog_id(&self, prog: u64) -> u64 {
        self.k.progs.values().find(|p| p.addr == prog).map_or(0, |p| p.id.0.into())
    }
}

fn kfree_skb(r: &mut Record<'_>, a: &[u64]) {
    let protocol = r.read(a[0], field!("sk_buff", "protocol")) as u16;
    // ntohs(skb->protocol)
    let protocol = r.k.be16(protocol);
    r.nums(&[("skbaddr", a[0]), ("location", a[1]), ("reason", a[2]), ("rx_sk", a[3])]);
    r.num("protocol", protocol);
}

fn consume_skb(r: &mut Record<'_>, a: &[u64]) {
    r.nums(&[("skbaddr", a[0]), ("location", a[1])]);
}

fn skb_dev(r: &Record<'_>, skb: u64) -> u64 {
    r.read(skb, field!("sk_buff", "dev"))
}

fn net_dev(r: &mut Record<'_>, a: &[u64]) {
    let len = r.read(a[0], field!("sk_buff", "len"));
    r.nums(&[("skbaddr", a[0]), ("len", len)]);
    let name = r.dev_name(skb_dev(r, a[0]));
    r.data_loc("__data_loc_name", &name);
}

fn net_dev_xmit(r: &mut Record<'_>, a: &[u64]) {
    r.nums(&[("skbaddr", a[0]), ("len", a[3]), ("rc", a[1])]);
    let name = r.dev_name(a[2]);
    r.data_loc("__data_loc_name", &name);
}

/// What both verbose records of sk_buffs have.
fn skb_fields(r: &mut Record<'_>, skb: u64) {
    let get = |f| r.read(skb, f);
    let (proto, tci) = (get(field!("sk_buff", "vlan_proto")), get(field!("sk_buff", "vlan_tci")));
    let values = [
        ("queue_mapping", get(field!("sk_buff", "queue_mapping"))),
        ("skbaddr", skb),
        ("vlan_tagged", u64::from(proto != 0)),
        ("vlan_proto", r.k.be16(proto as u16)),
        ("vlan_tci", tci),
        ("protocol", r.k.be16(get(field!("sk_buff", "protocol")) as u16)),
        ("ip_summed", get(field!("sk_buff", "ip_summed"))),
        ("len", get(field!("sk_buff", "len"))),
        ("data_len", get(field!("sk_buff", "data_len"))),
    ];
    r.nums(&values);
}

/// Distance of a header from the first byte, as `skb_network_offset` gives it.
fn header_offset(r: &Record<'_>, skb: u64, header: crate::types::Field) -> u64 {
    let head = r.read(skb, field!("sk_buff", "head"));
    let data = r.read(skb, field!("sk_buff", "data"));
    (head + r.read(skb, header)).wrapping_sub(data)
}

fn net_dev_start_xmit(r: &mut Record<'_>, a: &[u64]) {
    skb_fields(r, a[0]);
    let network = header_offset(r, a[0], field!("sk_buff", "network_header"));
    let transport = header_offset(r, a[0], field!("sk_buff", "transport_header"));
    r.nums(&[
        ("network_offset", network),
        ("transport_offset_valid", 1),
        ("transport_offset", transport),
    ]);
    let name = r.dev_name(a[1]);
    r.data_loc("__data_loc_name", &name);
}

fn rx_verbose(r: &mut Record<'_>, a: &[u64]) {
    skb_fields(r, a[0]);
    let mac = header_offset(r, a[0], field!("sk_buff", "mac_header"));
    let values = [
        ("napi_id", r.read(a[0], field!("sk_buff", "napi_id"))),
        ("hash", r.read(a[0], field!("sk_buff", "hash"))),
        ("truesize", r.read(a[0], field!("sk_buff", "truesize"))),
        ("mac_header_valid", 1),
        ("mac_header", mac),
    ];
    r.nums(&values);
    let head = r.read(a[0], field!("sk_buff", "head"));
    let frags = r.read(crate::net::shared_info(head), field!("skb_shared_info", "nr_frags"));
    r.num("nr_frags", frags);
    let name = r.dev_name(skb_dev(r, a[0]));
    r.data_loc("__data_loc_name", &name);
}

/// The model's interrupts have no `irqaction`: their name is empty.
fn irq_entry(r: &mut Record<'_>, a: &[u64]) {
    r.nums(&[("irq", a[0])]);
    r.data_loc("__data_loc_name", b"");
}

fn irq_exit(r: &mut Record<'_>, a: &[u64]) {
    r.nums(&[("irq", a[0]), ("ret", a[2])]);
}

fn napi_poll(r: &mut Record<'_>, a: &[u64]) {
    r.nums(&[("napi", a[0]), ("work", a[1]), ("budget", a[2])]);
    let name = r.dev_name(r.read(a[0], field!("napi_struct", "dev")));
    r.data_loc("__data_loc_dev_name", &name);
}

fn xdp_exception(r: &mut Record<'_>, a: &[u64]) {
    let (prog, ifindex) = (r.prog_id(a[1]), r.ifindex(a[0]));
    r.nums(&[("prog_id", prog), ("act", a[2]), ("ifindex", ifindex)]);
}

/// `XDP_REDIRECT`.
const XDP_REDIRECT: u64 = 4;
/// `XDP_TX`.
const XDP_TX: u64 = 3;

fn xdp_redirect(r: &mut Record<'_>, a: &[u64]) {
    use bpf::uapi::MapType;
    let (prog, ifindex) = (r.prog_id(a[1]), r.ifindex(a[0]));
    // A devmap's target is a bpf_dtab_netdev; a program's redirect to an ifindex names none.
    let devmap = [MapType::Devmap as u64, MapType::DevmapHash as u64].contains(&a[4]);
    let to =
        if devmap && a[2] != 0 { r.read(a[2], field!("bpf_devmap_val", "ifindex")) } else { 0 };
    let direct = a[4] == 0 && a[6] == 0x7fff_ffff;
    let (to, index) = if direct { (a[2], 0) } else { (to, a[6]) };
    r.nums(&[
        ("prog_id", prog),
        ("act", XDP_REDIRECT),
        ("ifindex", ifindex),
        ("err", a[3]),
        ("to_ifindex", to),
        ("map_id", a[5]),
        ("map_index", index),
    ]);
}

fn xdp_devmap_xmit(r: &mut Record<'_>, a: &[u64]) {
    let (from, to) = (r.ifindex(a[0]), r.ifindex(a[1]));
    r.nums(&[
        ("from_ifindex", from),
        ("act", XDP_REDIRECT),
        ("to_ifindex", to),
        ("drops", a[3]),
        ("sent", a[2]),
        ("err", a[4]),
    ]);
}

fn xdp_cpumap_enqueue(r: &mut Record<'_>, a: &[u64]) {
    let cpu = u64::from(r.cpu.0);
    r.nums(&[
        ("map_id", a[0]),
        ("act", XDP_REDIRECT),
        ("cpu", cpu),
        ("drops", a[2]),
        ("processed", a[1]),
        ("to_cpu", a[3]),
    ]);
}

fn xdp_cpumap_kthread(r: &mut Record<'_>, a: &[u64]) {
    let cpu = u64::from(r.cpu.0);
    let stats = |f| r.read(a[4], f);
    let (pass, drop, redirect) = (
        stats(field!("xdp_cpumap_stats", "pass")),
        stats(field!("xdp_cpumap_stats", "drop")),
        stats(field!("xdp_cpumap_stats", "redirect")),
    );
    r.nums(&[
        ("map_id", a[0]),
        ("act", XDP_REDIRECT),
        ("cpu", cpu),
        ("drops", a[2]),
        ("processed", a[1]),
        ("sched", a[3]),
        ("xdp_pass", pass),
        ("xdp_drop", drop),
        ("xdp_redirect", redirect),
    ]);
}

fn xdp_bulk_tx(r: &mut Record<'_>, a: &[u64]) {
    let ifindex = r.ifindex(a[0]);
    r.nums(&[("ifindex", ifindex), ("act", XDP_TX), ("drops", a[2]), ("sent", a[1])]);
    r.num("err", a[3]);
}

fn sys_enter(r: &mut Record<'_>, a: &[u64]) {
    r.num("id", a[1]);
    let f = r.types.field(r.name, "args").expect("a member of the record");
    for n in 0..6 {
        let value = super::regs::syscall_arg(r.k, a[0], n).unwrap_or(0);
        r.put(f.off as usize + n * 8, 8, value);
    }
}

fn sys_exit(r: &mut Record<'_>, a: &[u64]) {
    let id = super::regs::syscall_number(r.k, a[0]).unwrap_or(u64::MAX);
    r.nums(&[("id", id), ("ret", a[1])]);
}

fn sched_switch(r: &mut Record<'_>, a: &[u64]) {
    for (task, comm, pid, prio) in
        [(a[1], "prev_comm", "prev_pid", "prev_prio"), (a[2], "next_comm", "next_pid", "next_prio")]
    {
        let text = r.comm(task);
        r.text(comm, &text);
        let (p, q) = (r.pid(task), r.read(task, field!("task_struct", "prio")));
        r.nums(&[(pid, p), (prio, q)]);
    }
    r.num("prev_state", a[3]);
}

fn sched_wakeup(r: &mut Record<'_>, a: &[u64]) {
    sched_process(r, a);
    let cpu = r.read(a[0], field!("task_struct", "thread_info.cpu"));
    r.num("target_cpu", cpu);
}

/// `comm`, `pid` and `prio` of a task.
fn sched_process(r: &mut Record<'_>, a: &[u64]) {
    let text = r.comm(a[0]);
    r.text("comm", &text);
    let (pid, prio) = (r.pid(a[0]), r.read(a[0], field!("task_struct", "prio")));
    r.nums(&[("pid", pid), ("prio", prio)]);
}

fn sched_migrate_task(r: &mut Record<'_>, a: &[u64]) {
    sched_process(r, a);
    let from = r.read(a[0], field!("task_struct", "thread_info.cpu"));
    r.nums(&[("orig_cpu", from), ("dest_cpu", a[1])]);
}

fn inet_sock_set_state(r: &mut Record<'_>, a: &[u64]) {
    let sk = a[0];
    let family = r.read(sk, field!("sock", "__sk_common.skc_family"));
    let protocol = r.read(sk, field!("sock", "sk_protocol"));
    let sport = r.read(sk, field!("sock", "__sk_common.skc_num"));
    let dport = r.read(sk, field!("sock", "__sk_common.skc_dport"));
    let dport = r.k.be16(dport as u16);
    r.nums(&[("skaddr", sk), ("oldstate", a[1]), ("newstate", a[2]), ("family", family)]);
    r.nums(&[("protocol", protocol), ("sport", sport), ("dport", dport)]);
    let bytes = |f: crate::types::Field| {
        let found = r.k.mem.read_vec(sk.wrapping_add(f.off.into()), f.size as usize);
        found.unwrap_or_else(|_| vec![0; f.size as usize])
    };
    let ends = [
        (
            "saddr",
            "saddr_v6",
            field!("sock", "__sk_common.skc_rcv_saddr"),
            field!("sock", "__sk_common.skc_v6_rcv_saddr"),
        ),
        (
            "daddr",
            "daddr_v6",
            field!("sock", "__sk_common.skc_daddr"),
            field!("sock", "__sk_common.skc_v6_daddr"),
        ),
    ];
    let ends = ends.map(|(v4, v6, at4, at6)| (v4, v6, bytes(at4), bytes(at6)));
    for (v4, v6, four, six) in ends {
        r.text(v4, &four);
        // TP_STORE_ADDR_PORTS: an IPv4 address is mapped.
        let mapped = [&[0; 10][..], &[0xff, 0xff], &four].concat();
        r.text(v6, if family == 10 { &six } else { &mapped });
    }
}

fn sched_process_fork(r: &mut Record<'_>, a: &[u64]) {
    let (parent, child) = (r.comm(a[0]), r.comm(a[1]));
    let (p, c) = (r.pid(a[0]), r.pid(a[1]));
    r.nums(&[("parent_pid", p), ("child_pid", c)]);
    r.data_loc("__data_loc_parent_comm", &parent);
    r.data_loc("__data_loc_child_comm", &child);
}

fn sched_process_exec(r: &mut Record<'_>, a: &[u64]) {
    let pid = r.pid(a[0]);
    r.nums(&[("pid", pid), ("old_pid", a[1])]);
    let name = r.read(a[2], field!("linux_binprm", "filename"));
    let text = r.c_text(name, 4096);
    r.data_loc("__data_loc_filename", &text);
}

fn sched_process_exit(r: &mut Record<'_>, a: &[u64]) {
    sched_process(r, a);
    r.num("group_dead", a[1]);
}

fn bpf_trace_printk(r: &mut Record<'_>, a: &[u64]) {
    let text = r.c_text(a[0], 1024);
    r.data_loc("__data_loc_bpf_string", &text);
}

fn bpf_test_finish(r: &mut Record<'_>, a: &[u64]) {
    let err = r.k.mem.read_u32(a[0]).unwrap_or(0);
    r.num("err", err.into());
}

fn contention_begin(r: &mut Record<'_>, a: &[u64]) {
    r.nums(&[("lock_addr", a[0]), ("flags", a[1])]);
}

fn contention_end(r: &mut Record<'_>, a: &[u64]) {
    r.nums(&[("lock_addr", a[0]), ("ret", a[1])]);
}

fn softirq(r: &mut Record<'_>, a: &[u64]) {
    r.num("vec", a[0]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;
    use bpf::Arch;

    #[test]
    fn every_tracepoint_has_a_record_and_strings_lie_behind_it() {
        for arch in Arch::ALL {
            let k = Kernel::new(Config { arch, memory_bytes: 8 << 20, ..Config::default() });
            for (n, t) in tracepoints().iter().enumerate() {
                let all = bytes(&k, CpuId(0), n, &[0; 4]);
                assert!(
                    all.len() >= Types::of(arch).size(&t.record).unwrap() as usize,
                    "{}",
                    t.name
                );
            }
            let (n, _) = super::super::tracepoint("sched_process_fork").unwrap();
            let task = k.cpus[0].task;
            let all = bytes(&k, CpuId(0), n, &[task, task]);
            let texts = all.windows(20).any(|w| w == b"swapper/0\0swapper/0\0");
            assert!(texts, "{all:?}");
        }
    }
}
