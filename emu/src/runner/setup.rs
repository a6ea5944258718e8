//! From a scenario to a machine at time 0.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bpf::Arch;
use bpf::uapi::{AttachType, ProgType};
use kernel_model::cancel::Watchdog;
use kernel_model::cpu::CancelledBy;
use kernel_model::net::{Dir, NicConfig, Order, Rss};
use kernel_model::rcu::STALL_NS;
use kernel_model::trace::UprobeMulti;
use scenarios::schema::Name;
use scenarios::schema::machine::{self, Attach};
use scenarios::{Finding, Scenario, Spanned};
use verifier::tables::Level;

use super::timeline::Plan;
use super::trace::{Names, Recorder};
use super::watch::Watch;
use super::{Run, RunError, RunOptions, captures, load};
use crate::machine::{Config, Machine};

/// `BPF_F_XDP_HAS_FRAGS`.
const XDP_HAS_FRAGS: u32 = 1 << 5;

/// Loads the objects that are there from the start.
fn objects(
    s: &Scenario,
    machine: &mut Machine,
    opts: &RunOptions,
) -> Result<Vec<load::Loaded>, RunError> {
    for (path, max) in s.machine.memory_max.iter() {
        let group = super::tasks::cgroup(machine, path)?;
        machine.kernel.memcg_limit(group, max.v.n);
    }
    let now = s.objects.iter().filter(|(name, _)| !is_loaded_later(s, name));
    now.map(|(name, object)| load_one(machine, &opts.dir, name, object)).collect()
}

/// Loads an object, by a process in its control group.
fn load_one(
    machine: &mut Machine,
    dir: &Path,
    name: &Name,
    object: &machine::Object,
) -> Result<load::Loaded, RunError> {
    let group = object.cgroup.as_ref().map(|path| super::tasks::cgroup(machine, path));
    machine.kernel.memcg_enter(group.transpose()?.unwrap_or(0));
    load::load(machine, dir, name, object)
}

/// A machine without anything.
fn machine(
    arch: Arch,
    kernel: kernel_model::Config,
    opts: &RunOptions,
) -> Result<Machine, RunError> {
    let mut config = Config { kernel, ..Config::default() };
    config.run_insns_max = opts.run_insns_max.unwrap_or(config.run_insns_max);
    let mut machine = Machine::new(arch, config)?;
    if let Some(range) = &opts.probe {
        machine.log_path(crate::machine::path::PathLog::new(range.clone()));
    }
    if opts.cover {
        machine.cover();
    }
    Ok(machine)
}

/// Builds the machine, loads and attaches.
pub(super) fn begin<'a>(
    s: &'a Scenario,
    arch: Arch,
    opts: &RunOptions,
) -> Result<Run<'a>, RunError> {
    let kernel = kernel_config(s, arch, opts)?;
    if kernel.memory_bytes < 8 << 20 || kernel.memory_bytes > 4 << 30 {
        return Err(RunError::input(s.machine.memory.span, "memory is 8MiB to 4GiB"));
    }
    let mut machine = machine(arch, kernel, opts)?;
    nics(s, &mut machine)?;
    routes(s, &mut machine)?;
    sockets(s, &mut machine)?;
    let objects = objects(s, &mut machine, opts)?;
    let mut run = Run {
        s,
        machine,
        captures: captures::CaptureFiles::new(&opts.dir),
        dir: opts.dir.clone(),
        objects,
        testing: None,
        reading: None,
        sent: 0,
        sent_malformed: false,
        consumed: BTreeMap::new(),
        consumers: Vec::new(),
        streams: std::collections::BTreeMap::new(),
        failures: Vec::new(),
        plan: Plan::default(),
        whens: Vec::new(),
        steps: super::Steps::default(),
        seen: 0,
        watched: 0,
        watch: Watch::default(),
        marks: Vec::new(),
        keep_marks: false,
        progress: opts.progress.clone(),
        stop: opts.stop.clone(),
        sweep: opts.sweep || s.matrix.as_ref().is_some_and(|m| m.vars.iter().next().is_some()),
        every: opts.checkpoints,
        checkpoints: Vec::new(),
    };
    run.first_contents(0)?;
    run.refusals(0)?;
    run.add_tasks()?;
    for attach in &s.attach {
        run.attach(attach)?;
    }
    run.machine.kernel.watchdog = watchdog(s);
    if let Some(every) = opts.cancel_every {
        run.machine.sweep(every);
    }
    run.open_consumers()?;
    run.arm_faults()?;
    if !opts.repin {
        run.places_exist()?;
    }
    run.arm_schedule();
    run.watch_tracepoints()?;
    run.watch_lines()?;
    let mut recorder = Recorder::new(Arc::new(Names::of(&run.machine)), opts.keep.clone());
    recorder.by_time = s.machine.watchdog.is_some();
    run.watch = Watch::new(&run, recorder)?;
    run.plan()?;
    Ok(run)
}

fn watchdog(s: &Scenario) -> Option<Watchdog> {
    let w = s.machine.watchdog.as_ref()?;
    Some(Watchdog { soft_ns: w.soft.v.ns, hard_ns: w.hard.v.ns, strikes: w.strikes })
}

fn kernel_config(
    s: &Scenario,
    arch: Arch,
    opts: &RunOptions,
) -> Result<kernel_model::Config, RunError> {
    Ok(kernel_model::Config {
        arch,
        cpus: opts.cpus.unwrap_or(s.machine.cpus.v),
        memory_bytes: s.machine.memory.v.n,
        seed: super::schedule::seed(s, opts.seed),
        clock_ns: s.machine.clock.ns,
        rcu_stall_ns: s.machine.rcu_stall.as_ref().map_or(STALL_NS, |t| t.v.ns.max(1)),
        memcg_max: s.machine.memcg.as_ref().map(|m| m.v.n),
        strict_free: s.machine.strict_free,
        races: opts.races || super::watch::names_races(s),
        level: level(s)?,
    })
}

/// The devices and their addresses.
fn nics(s: &Scenario, machine: &mut Machine) -> Result<(), RunError> {
    for (n, (name, nic)) in s.machine.nics.iter().enumerate() {
        let config = nic_config(n, name, nic);
        let added = machine.kernel.net_add(config);
        let said = |e| RunError::input(name.span, format!("nic {}: {e:?}", name.v));
        let ifindex = added.map_err(said)?;
        if let Some(ip) = nic.ip {
            machine.kernel.address_add(ifindex, ip.0);
        }
    }
    Ok(())
}

/// Routes and neighbours, and the addresses of the machine's own devices.
fn routes(s: &Scenario, machine: &mut Machine) -> Result<(), RunError> {
    use kernel_model::net::{Route, RouteKind, TABLE_MAIN};
    use scenarios::schema::machine::RouteKind as Kind;
    let k = &mut machine.kernel;
    let ifindex =
        |k: &kernel_model::Kernel, name: &str| k.nic_by_name(name).map_or(0, |n| n.ifindex);
    for r in &s.machine.routes {
        let dev = r.nic.as_ref().map_or(0, |n| ifindex(k, &n.v));
        let route = Route {
            kind: match r.kind {
                Kind::Unicast => RouteKind::Unicast,
                Kind::Local => RouteKind::Local,
                Kind::Blackhole => RouteKind::Blackhole,
                Kind::Unreachable => RouteKind::Unreachable,
                Kind::Prohibit => RouteKind::Prohibit,
            },
            via: r.via.map(|ip| ip.0),
            src: r.src.map(|ip| ip.0),
            metric: r.metric,
            mtu: r.mtu,
            table: r.table.unwrap_or(TABLE_MAIN),
            ..Route::new(r.to.v.ip, r.to.v.bits, dev)
        };
        let added = k.route_add(route);
        added.map_err(|e| RunError::input(r.to.span, format!("route: {}", e.name())))?;
    }
    for n in &s.machine.neighbours {
        let dev = ifindex(k, &n.nic.v);
        let added = k.neighbour_add(dev, n.ip.0, n.mac.0);
        added.map_err(|e| RunError::input(n.nic.span, format!("neighbour: {}", e.name())))?;
    }
    let own = s.machine.nics.iter().filter_map(|(name, nic)| Some((name, nic.ip?.0)));
    for (name, ip) in own.filter(|_| !s.machine.routes.is_empty()) {
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        let route = Route { kind: RouteKind::Local, ..Route::new(ip, bits, ifindex(k, &name.v)) };
        let added = k.route_add(route);
        added.map_err(|e| RunError::input(name.span, format!("nic {}: {}", name.v, e.name())))?;
    }
    Ok(())
}

/// Sockets of the machine.
fn sockets(s: &Scenario, machine: &mut Machine) -> Result<(), RunError> {
    use kernel_model::net::{Protocol, SocketConfig};
    use scenarios::schema::machine::Protocol as Named;
    for socket in &s.machine.sockets {
        let nic = socket.nic.as_ref().and_then(|n| machine.kernel.nic_by_name(&n.v));
        let config = SocketConfig {
            protocol: match socket.protocol {
                Named::Tcp => Protocol::Tcp,
                Named::Udp => Protocol::Udp,
            },
            local: socket.local.v.0,
            remote: socket.remote.map(|r| r.0),
            dev: nic.map_or(0, |n| n.ifindex),
            mark: socket.mark,
        };
        let said =
            |span, e: kernel_model::Errno| RunError::input(span, format!("socket: {}", e.name()));
        let added = machine.kernel.socket_add(config);
        let sk = added.map_err(|e| said(socket.local.span, e))?;
        if let Some(path) = &socket.cgroup {
            let group = machine.kernel.cgroup_at(&path.v).map_err(|e| said(path.span, e))?;
            machine.kernel.socket_cgroup(sk, group);
        }
    }
    Ok(())
}

/// The version of the kernel that programs are loaded into.
fn level(s: &Scenario) -> Result<Level, RunError> {
    let Some(k) = &s.machine.kernel else { return Ok(Level::default()) };
    let parts = k.v.split_once('.').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    let (major, minor) = parts.ok_or_else(|| {
        let finding = Finding::error(k.span, format!("`{}` is no kernel version", k.v));
        RunError::from(finding.hint("write \"6.12\""))
    })?;
    Ok(Level(major, minor))
}

fn nic_config(n: usize, name: &Name, nic: &machine::Nic) -> NicConfig {
    NicConfig {
        name: name.v.clone(),
        queues: nic.queues.v,
        ring: nic.ring.v,
        mtu: nic.mtu.v,
        mac: nic.mac.map_or([2, 0, 0, 0, 0, n as u8 + 1], |m| m.0),
        peer: nic.peer.as_ref().map(|p| p.v.clone()),
        rss: match nic.rss {
            machine::Rss::Toeplitz => Rss::Toeplitz,
            machine::Rss::RoundRobin => Rss::RoundRobin,
            machine::Rss::Off => Rss::Off,
        },
        irqs: nic.irqs.iter().map(|cpu| cpu.v).collect(),
        rx_frag: nic.rx_frag.map(|b| b.n as u32),
    }
}

/// Whether a step loads an object, so that it is not there from the start.
fn is_loaded_later(s: &Scenario, name: &Name) -> bool {
    use scenarios::schema::{Action, Step};
    let mut acts = s.timeline.iter().map(Step::action);
    acts.any(|act| matches!(act, Action::Load(n) if n.v == name.v))
}

impl Run<'_> {
    /// A step loads an object.
    pub(super) fn load(&mut self, name: &Name) -> Result<(), RunError> {
        let there = self.objects.iter().any(|o| o.name == name.v);
        let found = self.s.objects.iter().find(|(n, _)| n.v == name.v).filter(|_| !there);
        let (key, object) = found.ok_or_else(|| {
            let why = if there { "is loaded already" } else { "is no object" };
            RunError::input(name.span, format!("{} {why}", name.v))
        })?;
        let loaded = load_one(&mut self.machine, &self.dir, key, object)?;
        self.objects.push(loaded);
        let new = self.objects.len() - 1;
        self.first_contents(new)?;
        self.refusals(new)?;
        self.watch.recorder.names = Arc::new(Names::of(&self.machine));
        Ok(())
    }

    /// A rejected program fails the run unless the scenario expects it. Of objects from `first` on.
    fn refusals(&mut self, first: usize) -> Result<(), RunError> {
        use scenarios::schema::Expect;
        let new = &self.objects[first..];
        let all = new.iter().flat_map(|o| o.refused.iter().map(move |r| (&o.name, r)));
        let mut failures = Vec::new();
        for (object, r) in all {
            let full = format!("{object}/{}", r.name);
            let named = |n: &Name| n.v == r.name || n.v == full;
            let expected = self.s.expect.iter().any(|e| match e {
                Expect::Rejected { prog, .. } => named(prog),
                _ => false,
            });
            if expected {
                continue;
            }
            let accepted = self.s.expect.iter().find_map(|e| match e {
                Expect::Accepted { prog, .. } if named(prog) => Some(prog.span),
                _ => None,
            });
            let attached = self.s.attach.iter().filter_map(Attach::prog).find(|n| named(n));
            let span = self.s.objects.0.iter().find(|o| o.0.v == *object);
            let span = span.map_or(self.s.span, |o| o.0.span);
            let span = attached.map(|n| n.span).or(accepted).unwrap_or(span);
            if r.rejection.is_unsupported() {
                let what = r.rejection.message.trim_start_matches("unsupported: ");
                let skip = format!("; skip: [{:?}] leaves the program out", r.name);
                return Err(RunError::unsupported(span, format!("{what}{skip}")));
            }
            let mut message = format!("program {full} was rejected: {}", r.rejection.message);
            message += &super::state::place(r);
            failures.push(super::Failure::new(span, message));
        }
        self.failures.append(&mut failures);
        Ok(())
    }

    /// Attaches a program.
    pub(super) fn attach(&mut self, attach: &Attach) -> Result<(), RunError> {
        match attach {
            Attach::Xdp { prog, mode: machine::XdpMode::Generic, .. } => {
                Err(RunError::unsupported(prog.span, "generic XDP"))
            }
            Attach::Xdp { prog, nic, frags, .. } => {
                let (id, ifindex) = (self.prog(prog)?, self.nic(nic)?);
                self.expect_type(prog, id, ProgType::Xdp)?;
                let program = self.machine.kernel.prog(id).expect("found by name");
                if *frags && program.verified.program().flags & XDP_HAS_FRAGS == 0 {
                    let message =
                        format!("{} was not loaded for frames of several buffers", prog.v);
                    let hint = "its section has to be SEC(\"xdp.frags\")";
                    return Err(Finding::error(prog.span, message).hint(hint).into());
                }
                let done = self.machine.kernel.xdp_attach(ifindex, Some(id));
                done.map_err(|e| RunError::input(prog.span, format!("attaching: {e:?}")))
            }
            Attach::Tc { prog, nic, dir, order } => {
                let (id, ifindex) = (self.prog(prog)?, self.nic(nic)?);
                self.expect_type(prog, id, ProgType::SchedCls)?;
                let dir = match dir {
                    machine::Dir::Ingress => Dir::Ingress,
                    machine::Dir::Egress => Dir::Egress,
                };
                let order = match order {
                    machine::Order::First => Order::First,
                    machine::Order::Last => Order::Last,
                    machine::Order::Before(p) => Order::Before(self.prog(p)?),
                    machine::Order::After(p) => Order::After(self.prog(p)?),
                };
                let done = self.attach_tc(ifindex, dir, id, order);
                done.map_err(|e| RunError::input(prog.span, format!("attaching: {e:?}")))
            }
            Attach::Auto { prog } => self.attach_auto(prog),
            Attach::Socket { prog, .. } => {
                Err(RunError::unsupported(prog.span, "socket filters on packet sockets"))
            }
            Attach::Cgroup { prog, cgroup, mode, order, preorder, replace } => {
                let at = self.cgroup_flags(*mode, order, *preorder)?;
                self.attach_cgroup(prog, cgroup, at, replace.as_ref())
            }
            Attach::Uprobe { prog, task, symbol, ret } => {
                let id = self.prog(prog)?;
                let at = (task.v.as_str(), symbol.v.as_str());
                let done = self.machine.kernel.uprobe_attach(id, at, *ret, 0);
                done.map_err(|e| RunError::input(prog.span, format!("attaching: {}", e.name())))
            }
            Attach::UprobeMulti { prog, task, symbols, cookies, only } => {
                self.attach_uprobe_multi(prog, task, (symbols, cookies), only.as_ref())
            }
            Attach::PerfEvent { prog, event, period } => {
                let id = self.prog(prog)?;
                self.expect_type(prog, id, ProgType::PerfEvent)?;
                if !matches!(&*event.v, "cycles" | "instructions") {
                    let what = format!("the perf event {}", event.v);
                    return Err(RunError::unsupported(event.span, what));
                }
                let k = &mut self.machine.kernel;
                let done = match period {
                    Some(period) => k.sample_attach(id, *period),
                    None => k.trace_attach(id, 0),
                };
                done.map_err(|e| RunError::input(prog.span, format!("attaching: {e}")))
            }
            Attach::StructOps { map } | Attach::Qdisc { map, .. } => {
                Err(RunError::unsupported(map.span, "struct_ops"))
            }
        }
    }

    /// `attach_flags` and `relative_fd` of `BPF_PROG_ATTACH`.
    fn cgroup_flags(
        &self,
        mode: machine::CgroupMode,
        order: &machine::Order,
        preorder: bool,
    ) -> Result<(u32, u32), RunError> {
        use kernel_model::cgroup::flag;
        let mode = match mode {
            machine::CgroupMode::Multi => flag::ALLOW_MULTI,
            machine::CgroupMode::Override => flag::ALLOW_OVERRIDE,
            machine::CgroupMode::Alone => 0,
        };
        let (order, relative) = match order {
            machine::Order::Last => (0, 0),
            machine::Order::First => (flag::BEFORE, 0),
            machine::Order::Before(p) => (flag::BEFORE | flag::ID, self.prog(p)?.0),
            machine::Order::After(p) => (flag::AFTER | flag::ID, self.prog(p)?.0),
        };
        let preorder = if preorder { flag::PREORDER } else { 0 };
        Ok((mode | order | preorder, relative))
    }

    /// As `BPF_PROG_ATTACH` does.
    fn attach_cgroup(
        &mut self,
        prog: &Name,
        cgroup: &Name,
        (mut flags, relative): (u32, u32),
        replace: Option<&Name>,
    ) -> Result<(), RunError> {
        use kernel_model::cgroup::{Ask, flag, is_modelled};
        let id = self.prog(prog)?;
        let program = self.machine.kernel.prog(id).expect("found by name").verified.program();
        let (kind, at) = (program.prog_type, program.attach_type);
        // Sections without an attach type of their own.
        let at = at.or(match kind {
            ProgType::CgroupSkb => Some(AttachType::CgroupInetIngress),
            ProgType::CgroupSock => Some(AttachType::CgroupInetSockCreate),
            ProgType::CgroupDevice => Some(AttachType::CgroupDevice),
            ProgType::CgroupSysctl => Some(AttachType::CgroupSysctl),
            ProgType::SockOps => Some(AttachType::CgroupSockOps),
            _ => None,
        });
        let Some(at) = at.filter(|a| is_modelled(*a)) else {
            let what =
                format!("{} programs in control groups", at.map_or(kind.name(), |a| a.name()));
            return Err(RunError::unsupported(prog.span, what));
        };
        let group = self.cgroup(cgroup)?;
        let replace = replace.map(|p| self.prog(p)).transpose()?;
        if replace.is_some() {
            flags |= flag::REPLACE;
        }
        let ask = Ask { relative, replace, ..Ask::new(id, at, flags) };
        let done = self.machine.kernel.cgroup_attach(group, ask);
        done.map_err(|e| RunError::input(prog.span, format!("attaching: {}", e.name())))
    }

    /// To tcx when the section says so, else to clsact.
    fn attach_tc(
        &mut self,
        nic: u32,
        dir: Dir,
        id: kernel_model::ProgId,
        order: Order,
    ) -> Result<(), kernel_model::Errno> {
        let k = &mut self.machine.kernel;
        let at = k.prog(id).and_then(|p| p.verified.program().attach_type);
        if matches!(at, Some(AttachType::TcxIngress | AttachType::TcxEgress)) {
            k.tcx_attach(nic, dir, id, order)
        } else {
            k.clsact_attach(nic, dir, id, order)
        }
    }

    /// One link on functions of a user program.
    fn attach_uprobe_multi(
        &mut self,
        prog: &Name,
        task: &Name,
        (symbols, cookies): (&[Name], &[Spanned<u64>]),
        only: Option<&Name>,
    ) -> Result<(), RunError> {
        let id = self.prog(prog)?;
        if let Some(extra) = cookies.get(symbols.len()) {
            return Err(RunError::input(extra.span, "a cookie without a function"));
        }
        let k = &mut self.machine.kernel;
        let only = only.map(|name| {
            let mut all = k.tasks_named(&name.v);
            match (all.next(), all.next()) {
                (Some(task), None) => Ok(task),
                (None, _) => Err(RunError::input(name.span, format!("unknown task {}", name.v))),
                (Some(_), Some(_)) => {
                    let finding = Finding::error(name.span, "this names several tasks");
                    Err(finding.hint(format!("write \"{}.0\" for the first", name.v)).into())
                }
            }
        });
        let cookies = cookies.iter().map(|c| c.v).chain(std::iter::repeat(0));
        let symbols = symbols.iter().map(|s| s.v.as_str()).zip(cookies).collect();
        let at = UprobeMulti { task: &task.v, symbols, only: only.transpose()? };
        let done = k.uprobe_multi_attach(id, &at);
        done.map_err(|e| RunError::input(prog.span, format!("attaching: {}", e.name())))
    }

    /// As the section name says; XDP and tc go to the only nic.
    fn attach_auto(&mut self, prog: &Name) -> Result<(), RunError> {
        use kernel_model::trace::AttachError;
        let id = self.prog(prog)?;
        let program = self.machine.kernel.prog(id).expect("just found").verified.program();
        let (kind, at) = (program.prog_type, program.attach_type);
        if !matches!(kind, ProgType::Xdp | ProgType::SchedCls) {
            return self.machine.kernel.trace_attach(id, 0).map_err(|e| match e {
                AttachError::Unsupported(what) => RunError::unsupported(prog.span, what),
                AttachError::NoPoint(what) => RunError::unsupported(prog.span, what),
                e => RunError::input(prog.span, format!("attaching: {e}")),
            });
        }
        let nics: Vec<u32> = self.machine.kernel.net.nics.keys().copied().collect();
        let [nic] = nics.as_slice() else {
            let message = "Auto needs a machine with one nic; write Xdp(..) or Tc(..)";
            return Err(RunError::input(prog.span, message));
        };
        let done = match (kind, at) {
            (ProgType::Xdp, _) => self.machine.kernel.xdp_attach(*nic, Some(id)),
            (_, Some(AttachType::TcxEgress)) => self.attach_tc(*nic, Dir::Egress, id, Order::Last),
            _ => self.attach_tc(*nic, Dir::Ingress, id, Order::Last),
        };
        done.map_err(|e| RunError::input(prog.span, format!("attaching: {e:?}")))
    }

    fn expect_type(
        &self,
        name: &Name,
        id: kernel_model::ProgId,
        wanted: ProgType,
    ) -> Result<(), RunError> {
        let found = self.machine.kernel.prog(id).map(kernel_model::Prog::prog_type);
        if found == Some(wanted) {
            return Ok(());
        }
        let found = found.map_or("?", ProgType::name);
        let message = format!("{} is a {found} program, not {}", name.v, wanted.name());
        Err(RunError::input(name.span, message))
    }

    /// Takes a program off every hook.
    pub(super) fn detach(&mut self, prog: &Name) -> Result<(), RunError> {
        let id = self.prog(prog)?;
        self.machine.kernel.prog_detach(id);
        Ok(())
    }

    /// Cancels what runs of a program.
    pub(super) fn cancel(&mut self, prog: &Name) -> Result<(), RunError> {
        let id = self.prog(prog)?;
        if !self.machine.cancel(id, CancelledBy::Request) {
            self.fail(prog.span, format!("{} does not run: nothing to cancel", prog.v));
        }
        Ok(())
    }

    fn open_consumers(&mut self) -> Result<(), RunError> {
        use scenarios::schema::Consumer;
        for (name, consumer) in self.s.consumers.iter() {
            match consumer {
                Consumer::Ringbuf { map, .. } => {
                    let id = self.map(map)?.0;
                    self.consumers.push(id.0);
                }
                Consumer::Perf { map, rate, start, .. } => {
                    if rate.is_some() || start.ns > 0 {
                        let what = "perf buffers that fill up: records are read as they come";
                        return Err(RunError::unsupported(map.span, what));
                    }
                    let id = self.map(map)?.0;
                    for cpu in 0..self.machine.config().kernel.cpus {
                        let opened = self.machine.kernel.perf_open(id, cpu);
                        opened.map_err(|e| RunError::input(map.span, format!("{e:?}")))?;
                    }
                }
                Consumer::UserRingbuf { rate, .. } if rate.bits => {
                    return Err(RunError::unsupported(name.span, "rates in bits"));
                }
                Consumer::UserRingbuf { .. } => {}
                Consumer::Stream { rate: Some(rate), .. } if rate.bits => {
                    return Err(RunError::unsupported(name.span, "rates in bits"));
                }
                Consumer::Stream { .. } => {}
            }
        }
        Ok(())
    }
}
