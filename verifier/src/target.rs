//! Programs attached to another program (`attach_prog_fd`): extensions that replace a global
//! function of it, and fentry and fexit of any of its functions.

use bpf::Program;
use bpf::btf::{Body, Btf, Kind, TypeId};
use bpf::uapi::{AttachType, ProgType};

use crate::cfg::Cfg;
use crate::explore::Explored;
use crate::reject::{EINVAL, Rejection};

/// `BPF_F_SLEEPABLE`.
const BPF_F_SLEEPABLE: u32 = 1 << 4;

type R<T = ()> = Result<T, Box<Rejection>>;

/// What a function of a loaded program is to those that are attached to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FuncFacts {
    /// Its declaration does not say what it is called with.
    pub unreliable: bool,
    /// It may move packet data.
    pub changes_pkt_data: bool,
    /// It may sleep.
    pub might_sleep: bool,
    /// It is the exception callback.
    pub exception_callback: bool,
}

/// [`FuncFacts`] of all functions, in order.
pub(crate) fn facts(cfg: &Cfg, explored: &Explored) -> Vec<FuncFacts> {
    let fact = |(i, s): (usize, &crate::cfg::Subprog)| FuncFacts {
        unreliable: explored.unreliable.get(i).copied().unwrap_or_default(),
        changes_pkt_data: s.changes_pkt_data,
        might_sleep: s.might_sleep,
        exception_callback: cfg.exception_callback == Some(i),
    };
    cfg.subprogs.iter().enumerate().map(fact).collect()
}

/// What is known of a program's own main function before it is explored.
pub(crate) fn main_facts(cfg: &Cfg) -> FuncFacts {
    let main = cfg.subprogs.first();
    FuncFacts {
        changes_pkt_data: main.is_some_and(|s| s.changes_pkt_data),
        might_sleep: main.is_some_and(|s| s.might_sleep),
        ..FuncFacts::default()
    }
}

/// The loaded program another one is attached to.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The program.
    pub program: &'a Program,
    /// Its types.
    pub btf: &'a Btf,
    /// The function, in these types.
    pub func: TypeId,
    /// What is known of its functions, in the order of its function info.
    pub funcs: &'a [FuncFacts],
    /// Type of the program that the target itself is attached to.
    pub of: Option<ProgType>,
}

fn refuse<T>(text: impl Into<String>) -> R<T> {
    Err(Box::new(Rejection::refuse(EINVAL, text)))
}

impl<'a> Target<'a> {
    /// The target's type, through an extension.
    pub(crate) fn prog_type(&self) -> ProgType {
        match self.program.prog_type {
            ProgType::Ext => self.of.unwrap_or(ProgType::Ext),
            ty => ty,
        }
    }

    /// The function's number.
    fn index(&self) -> Option<usize> {
        self.program.funcs.iter().position(|f| f.type_id == self.func)
    }

    /// The function and what is known of it.
    pub(crate) fn facts(&self) -> FuncFacts {
        self.index().and_then(|i| self.funcs.get(i)).copied().unwrap_or_default()
    }

    /// KERNEL v6.18 verifier.c:bpf_check_attach_target, the part for targets that are programs.
    /// `main`: what is known of the program's own main function.
    pub(crate) fn check(&self, p: &Program, own: Option<&Btf>, main: FuncFacts) -> R {
        let (name, ext) = (self.btf.name(self.func), p.prog_type == ProgType::Ext);
        if self.index().is_none() {
            return refuse(format!("Subprog {name} doesn't exist"));
        }
        let facts = self.facts();
        if facts.exception_callback {
            let who = if ext { "Extension" } else { "FENTRY/FEXIT" };
            return refuse(format!("{who} programs cannot attach to exception callback"));
        }
        if ext && facts.unreliable {
            return refuse("Cannot replace static functions");
        }
        if ext && main.changes_pkt_data && !facts.changes_pkt_data {
            return refuse("Extension program changes packet data, while original does not");
        }
        if ext && main.might_sleep && !facts.might_sleep {
            return refuse("Extension program may sleep, while original does not");
        }
        let to = self.program.prog_type;
        if p.prog_type == ProgType::Tracing {
            if to == ProgType::Tracing && self.of.is_some() {
                return refuse("Cannot nest tracing program attach more than once");
            }
        } else if to == p.prog_type {
            return refuse("Cannot recursively attach");
        }
        let fentry = self.program.attach_type;
        let fentry = matches!(fentry, Some(AttachType::TraceFentry | AttachType::TraceFexit));
        if ext && to == ProgType::Tracing && fentry {
            return refuse("Cannot extend fentry/fexit");
        }
        if ext { self.types_match(p, own) } else { self.check_tracing(p) }
    }

    /// What may trace a program.
    fn check_tracing(&self, p: &Program) -> R {
        let sleepable = p.flags & BPF_F_SLEEPABLE != 0;
        match p.attach_type {
            Some(AttachType::TraceRawTp) => {
                refuse("Only FENTRY/FEXIT progs are attachable to another BPF prog")
            }
            Some(AttachType::TraceIter) => refuse(""),
            _ if sleepable => refuse(format!("{} is not sleepable", self.btf.name(self.func))),
            Some(AttachType::ModifyReturn) => refuse("can't modify return codes of BPF programs"),
            _ => Ok(()),
        }
    }

    /// KERNEL v6.18 btf.c:btf_check_type_match, then btf_check_func_type_match.
    fn types_match(&self, p: &Program, own: Option<&Btf>) -> R {
        let (Some(own), Some(main)) = (own, p.funcs.first()) else {
            return refuse("Program extension requires BTF");
        };
        let (ours, theirs) = (own.name(main.type_id), self.btf.name(self.func));
        for (btf, id, name) in [(own, main.type_id, ours), (self.btf, self.func, theirs)] {
            let global =
                matches!(btf.body(id), Body::Func { linkage: bpf::btf::Linkage::Global, .. });
            if !global {
                return refuse(format!("{name}() is not a global function"));
            }
        }
        let protos = (own.func_proto(main.type_id), self.btf.func_proto(self.func));
        let (Some((ret1, args1)), Some((ret2, args2))) = protos else { return refuse("") };
        let (n1, n2) = (args1.len(), args2.len());
        if n1 != n2 {
            return refuse(format!("{ours}() has {n1} args while {theirs}() has {n2} args"));
        }
        let (t1, t2) = (own.resolve(ret1), self.btf.resolve(ret2));
        if info(own, t1) != info(self.btf, t2) {
            let (k1, k2) = (own.kind(t1), self.btf.kind(t2));
            let m = format!("doesn't match type {k2} of {theirs}()");
            return refuse(format!("Return type {k1} of {ours}() {m}"));
        }
        for (i, (a, b)) in args1.iter().zip(args2).enumerate() {
            self.arg_matches(own, (ours, theirs), i, (a.ty, b.ty))?;
        }
        Ok(())
    }

    fn arg_matches(
        &self,
        own: &Btf,
        (ours, theirs): (&str, &str),
        i: usize,
        (a, b): (TypeId, TypeId),
    ) -> R {
        let (t1, t2) = (own.resolve(a), self.btf.resolve(b));
        let (k1, k2) = (own.kind(t1), self.btf.kind(t2));
        if info(own, t1) != info(self.btf, t2) {
            return refuse(format!("arg{i} in {ours}() is {k1} while {theirs}() has {k2}"));
        }
        let sized = !matches!(k1, Kind::Ptr | Kind::Void | Kind::Fwd);
        let sizes = (own.size_of(t1).unwrap_or(0), self.btf.size_of(t2).unwrap_or(0));
        if sized && sizes.0 != sizes.1 {
            let m = format!("has size {} while {theirs}() has {}", sizes.0, sizes.1);
            return refuse(format!("arg{i} in {ours}() {m}"));
        }
        if matches!(k1, Kind::Int | Kind::Enum | Kind::Enum64) {
            return Ok(());
        }
        if k1 != Kind::Ptr {
            return refuse(format!("arg{i} in {ours}() has unrecognized type"));
        }
        let to = [own.body(t1), self.btf.body(t2)].map(|b| b.target().unwrap_or(0));
        let (s1, s2) = (own.resolve(to[0]), self.btf.resolve(to[1]));
        let is_struct = |k| matches!(k, Kind::Struct | Kind::Union);
        for (kind, name) in [(own.kind(s1), ours), (self.btf.kind(s2), theirs)] {
            if !is_struct(kind) {
                return refuse(format!("arg{i} in {name}() is not a pointer to context"));
            }
        }
        let (n1, n2) = (own.name(s1), self.btf.name(s2));
        if n1 != n2 {
            let m = format!("doesn't match {theirs}(struct {n2} *)");
            return refuse(format!("arg{i} {ours}(struct {n1} *) {m}"));
        }
        Ok(())
    }
}

/// The info word of a type: kind, number of members, kind flag.
fn info(btf: &Btf, ty: TypeId) -> (Kind, usize, bool) {
    let (n, flag) = match btf.body(ty) {
        Body::Struct { members, .. } | Body::Union { members, .. } => {
            (members.len(), members.iter().any(|m| m.bits != 0))
        }
        Body::Enum { values, signed, .. } | Body::Enum64 { values, signed, .. } => {
            (values.len(), *signed)
        }
        Body::Fwd { union } => (0, *union),
        _ => (0, false),
    };
    (btf.kind(ty), n, flag)
}
