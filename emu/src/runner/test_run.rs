//! `TestRun` steps: `BPF_PROG_TEST_RUN` of the scenario's user space, and what it must give back.

use std::collections::VecDeque;

use bpf::Endian;
use bpf::btf::{Kind as BtfKind, TypeId};
use bpf::uapi::ProgType;
use kernel_model::ProgId;
use kernel_model::syscall::{FdObject, SysError, Why};
use scenarios::leaf::{Data, Leaf};
use scenarios::schema::packet::HexBytes;
use scenarios::schema::{Action, Name};
use scenarios::tree::{Kind, Member, Node};

use super::data::Types;
use super::{Failure, Run, RunError, wire};
use crate::host::{TestRunIn, TestRunOut};
use crate::machine::{MachineError, TestCall};

/// `BPF_F_TEST_RUN_ON_CPU`.
const ON_CPU: u32 = 1;
/// Room for a packet that grew.
const OUT_ROOM: usize = 1 << 16;

/// The UAPI struct of a program type's context.
fn ctx_struct(t: ProgType) -> Option<&'static str> {
    match t {
        ProgType::Xdp => Some("xdp_md"),
        ProgType::SchedCls | ProgType::SchedAct | ProgType::SocketFilter | ProgType::CgroupSkb => {
            Some("__sk_buff")
        }
        _ => None,
    }
}

/// Data of a test run without a packet: the kernel wants at least an Ethernet header.
pub(super) fn no_packet(kind: ProgType) -> Vec<u8> {
    if ctx_struct(kind).is_some() { vec![0; 14] } else { Vec::new() }
}

/// The arguments of a raw tracepoint, `(args: [..])`.
fn raw_args(node: &Node, endian: Endian) -> Result<Vec<u8>, RunError> {
    let args = match &node.kind {
        Kind::Record(None, m) if m.len() == 1 && m[0].name == "args" => &m[0].value,
        _ => return Err(RunError::input(node.span, "(args: [..]) was expected")),
    };
    let Kind::List(items) = &args.kind else {
        return Err(RunError::input(args.span, "a list of numbers was expected"));
    };
    let mut out = vec![0; items.len() * 8];
    for (n, item) in items.iter().enumerate() {
        let value = scenarios::leaf::int_of(item)
            .ok_or_else(|| RunError::input(item.span, "a number was expected"))?;
        super::data::put_int(&mut out[n * 8..n * 8 + 8], value as u64, endian);
    }
    Ok(out)
}

/// A context whose type the program does not say, `Hex("..")`.
fn hex(node: &Node) -> Result<Vec<u8>, RunError> {
    match &node.kind {
        Kind::Call(name, args) if name == "Hex" && args.len() == 1 => {
            Ok(HexBytes::from_node(&args[0])?.0)
        }
        _ => {
            let why = "the program's parameter has no type with a size: write Hex(\"..\")";
            Err(RunError::input(node.span, why))
        }
    }
}

fn test_failed(prog: &Name, e: SysError) -> RunError {
    match e.why {
        Why::Unsupported(what) => RunError::unsupported(prog.span, what),
        _ => {
            let message = format!("the test run failed: {}", e.errno.name());
            RunError::input(prog.span, message)
        }
    }
}

/// A `TestRun` step that has begun.
#[derive(Clone, Debug)]
pub(super) struct Testing<'a> {
    action: &'a Action,
    kind: ProgType,
    fd: i32,
    ctx: Vec<u8>,
    /// Frames that are left.
    inputs: VecDeque<Vec<u8>>,
    running: Option<TestCall>,
}

impl<'a> Run<'a> {
    /// Begins one run, or one for each frame of a capture; the timeline goes on with them.
    pub(super) fn test_run(&mut self, action: &'a Action) -> Result<(), RunError> {
        let Action::TestRun { prog, cpu, packet, frames, ctx, .. } = action else {
            unreachable!("called for TestRun alone")
        };
        let id = self.prog(prog)?;
        let kind = self.machine.kernel.prog(id).map_or(ProgType::Unspec, |p| p.prog_type());
        if cpu.v != 0 && kind != ProgType::RawTracepoint {
            let what = "test runs on another CPU of programs other than raw_tp";
            return Err(RunError::unsupported(prog.span, what));
        }
        let mut inputs = Vec::new();
        match (packet, frames) {
            (Some(name), _) => inputs.push(self.named_packet(name)?),
            (None, Some(data)) => inputs = self.capture_of(data)?,
            (None, None) => inputs.push(no_packet(kind)),
        }
        let ctx_bytes = match ctx {
            Some(data) => self.test_ctx(id, data)?,
            None => Vec::new(),
        };
        let (fd, ctx, inputs) = (self.prog_fd(id)?, ctx_bytes, inputs.into());
        self.testing = Some(Testing { action, kind, fd, ctx, inputs, running: None });
        Ok(())
    }

    /// Runs what is left of a `TestRun` step.
    pub(super) fn go_on_testing(&mut self) -> Result<(), RunError> {
        while let Some(mut t) = self.testing.take() {
            let Action::TestRun { prog, ret, out, .. } = t.action else {
                unreachable!("begun by a TestRun")
            };
            let call = match t.running.take() {
                Some(call) => call,
                None => match t.inputs.pop_front() {
                    Some(data) => self.begin_test(&t, prog, &data)?,
                    None => break,
                },
            };
            match self.machine.test_run_on(&call) {
                Err(MachineError::Paused) => {
                    t.running = Some(call);
                    self.testing = Some(t);
                    return Err(RunError::Paused);
                }
                ran => ran?,
            }
            let result = self.machine.test_run_end(call).map_err(|e| test_failed(prog, e))?;
            self.test_result(prog, t.kind, ret.as_ref(), out.as_ref(), &result)?;
            self.testing = Some(t);
        }
        Ok(())
    }

    fn begin_test(
        &mut self,
        t: &Testing<'a>,
        prog: &Name,
        data: &[u8],
    ) -> Result<TestCall, RunError> {
        let Action::TestRun { cpu, .. } = t.action else { unreachable!("begun by a TestRun") };
        let given = TestRunIn {
            data,
            data_out: if data.is_empty() { 0 } else { OUT_ROOM },
            ctx: &t.ctx,
            ctx_out: match t.kind {
                ProgType::RawTracepoint | ProgType::Syscall => 0,
                _ => t.ctx.len(),
            },
            flags: if cpu.v == 0 { 0 } else { ON_CPU },
            cpu: cpu.v,
            ..TestRunIn::default()
        };
        self.machine.test_run_begin(t.fd, &given).map_err(|e| test_failed(prog, e))
    }

    /// A program's descriptor in the process that loaded it.
    pub(super) fn prog_fd(&self, id: kernel_model::ProgId) -> Result<i32, RunError> {
        let open = self.machine.kernel.fds.iter();
        let fd = open.filter(|(_, o)| **o == FdObject::Prog(id)).map(|(fd, _)| *fd).min();
        fd.ok_or_else(|| RunError::Internal("a program without descriptor".into()))
    }

    fn named_packet(&self, name: &Name) -> Result<Vec<u8>, RunError> {
        let layers = self.s.packets.get(&name.v).cloned().unwrap_or_default();
        let nic = self.machine.kernel.net.nics.keys().next().copied().unwrap_or(0);
        self.packet_bytes(&layers, nic, name.span)
    }

    /// `Pcap("file")` or `Pcap(file: "file")`: all its frames.
    fn capture_of(&self, data: &Data) -> Result<Vec<Vec<u8>>, RunError> {
        let bad = |m: String| RunError::input(data.span(), m);
        let file = match &data.node.kind {
            Kind::Call(name, args) if name == "Pcap" => match args.as_slice() {
                [Node { kind: Kind::Str(file), .. }] => Some(file),
                _ => None,
            },
            Kind::Record(Some(name), members) if name == "Pcap" => match members.as_slice() {
                [Member { value: Node { kind: Kind::Str(file), .. }, .. }] => Some(file),
                _ => None,
            },
            _ => None,
        };
        let file = file.ok_or_else(|| bad("frames are written as Pcap(\"file\")".into()))?;
        let frames = self.captures.frames(file).map_err(bad)?;
        Ok(frames.iter().map(|f| f.bytes.clone()).collect())
    }

    /// Bytes of a context: by the kernel's own types, or for `syscall` by what the program says
    /// its parameter points to; raw_tp takes `(args: [..])`.
    pub(super) fn test_ctx(&self, prog: ProgId, data: &Data) -> Result<Vec<u8>, RunError> {
        let endian = self.machine.arch().endian();
        let kind = self.machine.kernel.prog(prog).map_or(ProgType::Unspec, |p| p.prog_type());
        if kind == ProgType::RawTracepoint {
            return raw_args(&data.node, endian);
        }
        match self.ctx_type(prog, kind) {
            Some((types, ty)) => {
                let mut out = vec![0; types.btf.size_of(ty).unwrap_or(0) as usize];
                types.write(&data.node, ty, &mut out)?;
                Ok(out)
            }
            None if kind == ProgType::Syscall => hex(&data.node),
            None => {
                let what = format!("a context for test runs of {}", kind.name());
                Err(RunError::unsupported(data.span(), what))
            }
        }
    }

    /// The type of a program's context.
    fn ctx_type(&self, prog: ProgId, kind: ProgType) -> Option<(Types<'_>, TypeId)> {
        if kind != ProgType::Syscall {
            let (btf, endian) = (self.machine.kernel.vmlinux_btf(), self.machine.arch().endian());
            let ty = btf.find(ctx_struct(kind)?, BtfKind::Struct);
            return Some((Types { btf, endian }, ty.expect("UAPI structs are in the type table")));
        }
        self.objects.iter().enumerate().find_map(|(n, o)| {
            let name = &o.progs.iter().find(|p| p.id == prog)?.name;
            let types = self.types(n)?;
            let (_, params) = types.btf.func_proto(types.btf.find(name, BtfKind::Func)?)?;
            let ty = types.btf.resolve(types.btf.pointee(params.first()?.ty)?);
            let sized = types.btf.size_of(ty).is_some_and(|size| size > 0);
            sized.then_some((types, ty))
        })
    }

    fn test_result(
        &mut self,
        prog: &Name,
        kind: ProgType,
        ret: Option<&Data>,
        out: Option<&Data>,
        result: &TestRunOut,
    ) -> Result<(), RunError> {
        let id = self.prog(prog)?;
        if let Some(pattern) = ret
            && !self.ret_matches(&pattern.node, result.retval.into(), Some(id))?
        {
            let message =
                format!("the test run of {} returned {}", prog.v, result.retval.cast_signed());
            let at = Some(self.machine.insns());
            self.failures.push(Failure { at, ..Failure::new(pattern.span(), message) });
        }
        let members = match out.map(|d| &d.node.kind) {
            None => return Ok(()),
            Some(Kind::Record(None, members)) => members,
            Some(_) => {
                let span = out.map(Data::span).unwrap_or_default();
                return Err(RunError::input(span, "(packet: \"name\", ctx: (..)) was expected"));
            }
        };
        for m in members {
            self.test_out((id, kind), m, result)?;
        }
        Ok(())
    }

    fn test_out(
        &mut self,
        (prog, kind): (ProgId, ProgType),
        m: &Member,
        result: &TestRunOut,
    ) -> Result<(), RunError> {
        let why = match (m.name.as_str(), &m.value.kind) {
            ("packet", Kind::Str(name)) => {
                let find = |name: &str| self.s.packets.get(name).cloned();
                let Some(layers) = find(name) else {
                    return Err(RunError::input(m.value.span, format!("no packet {name}")));
                };
                let layers = super::packet::resolve(&layers, &find, 0)
                    .map_err(|e| RunError::input(m.value.span, e))?;
                wire::mismatch(&layers, &result.data).map(|m| m.why)
            }
            ("ctx", _) => {
                let Some((types, ty)) = self.ctx_type(prog, kind) else {
                    let what = format!("the context of a test run of {}", kind.name());
                    return Err(RunError::unsupported(m.value.span, what));
                };
                types.differs(&m.value, ty, &result.ctx)?.map(|d| d.why)
            }
            (other, _) => {
                let what = format!("`{other}` in the result of a test run");
                return Err(RunError::unsupported(m.name_span, what));
            }
        };
        if let Some(why) = why {
            let message = format!("{} of the test run: {why}", m.name);
            let at = Some(self.machine.insns());
            self.failures.push(Failure { at, ..Failure::new(m.value.span, message) });
        }
        Ok(())
    }
}
