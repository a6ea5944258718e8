//! What a program is attached to, as the kernel's BTF describes it: `bpf_check_attach_target`.
//!
//! | program | function whose arguments are the context |
//! |---|---|
//! | `tp_btf/X` | typedef `btf_trace_X`, without its first argument |
//! | `iter/X` | `bpf_iter_X` |
//! | fentry, fexit, fmod_ret | the function itself |
//! | `lsm/X` | `bpf_lsm_X` |
//! | struct_ops | the member's prototype |

use bpf::Program;
use bpf::btf::{Btf, Kind, Param, TypeId};
use bpf::uapi::{AttachType, ProgType};

use crate::env::KernelEnv;
use crate::proto::Flags;
use crate::reject::{EINVAL, ENOTSUPP, Rejection};
use crate::tables::{Level, hooks, struct_ops, traced};
use crate::target::{FuncFacts, Target};
use crate::verify::{Options, is_gpl_compatible};

/// `ENOENT`.
const ENOENT: i32 = 2;
/// `BPF_F_SLEEPABLE`.
const BPF_F_SLEEPABLE: u32 = 1 << 4;

type R<T = ()> = Result<T, Box<Rejection>>;

/// The function a program takes the arguments of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attach<'a> {
    /// `attach_func_name`.
    pub(crate) name: &'a str,
    /// BTF of the prototype.
    pub(crate) btf: &'a Btf,
    /// Return type.
    pub(crate) ret: TypeId,
    /// Parameters.
    pub(crate) params: &'a [Param],
    /// The parameter in front of them, which is not the program's: a tracepoint's first.
    pub(crate) before: Option<&'a Param>,
    /// Parameters of a struct_ops member's stub, whose names have suffixes.
    pub(crate) stub: &'a [Param],
    /// `ctx_arg_info` of an iterator.
    pub(crate) args: &'static [CtxArg],
    /// Type of the program it is a function of; `None` for functions of the kernel.
    pub(crate) of_program: Option<ProgType>,
    /// A function of a program whose declaration does not say what it is called with.
    pub(crate) untyped: bool,
}

/// `struct bpf_ctx_arg_aux`: an argument of an iterator and its flags. `buf`: `PTR_TO_BUF`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CtxArg {
    /// Number of the argument.
    pub(crate) arg: usize,
    /// A buffer rather than a structure.
    pub(crate) buf: bool,
    /// Flags.
    pub(crate) flags: Flags,
}

/// A function of which only its types are known.
fn plain(btf: &Btf) -> Attach<'_> {
    Attach {
        name: "",
        btf,
        ret: 0,
        params: &[],
        before: None,
        stub: &[],
        args: &[],
        of_program: None,
        untyped: false,
    }
}

const NULL: Flags = Flags::PTR_MAYBE_NULL;
const TRUSTED: Flags = NULL.or(Flags::PTR_TRUSTED);

const fn obj(arg: usize, flags: Flags) -> CtxArg {
    CtxArg { arg, buf: false, flags }
}

const fn buf(arg: usize, flags: Flags) -> CtxArg {
    CtxArg { arg, buf: true, flags }
}

/// `bpf_iter_reg` of each target.
const ITERS: &[(&str, &[CtxArg])] = &[
    ("task", &[obj(1, TRUSTED)]),
    ("task_file", &[obj(1, NULL), obj(3, NULL)]),
    ("task_vma", &[obj(1, NULL), obj(2, NULL)]),
    ("bpf_map", &[obj(1, TRUSTED)]),
    ("bpf_map_elem", &[buf(2, NULL.or(Flags::MEM_RDONLY)), buf(3, NULL)]),
    ("bpf_prog", &[obj(1, NULL)]),
    ("bpf_link", &[obj(1, NULL)]),
    ("bpf_sk_storage_map", &[obj(2, NULL), buf(3, NULL)]),
    ("sockmap", &[buf(2, NULL.or(Flags::MEM_RDONLY)), obj(3, NULL)]),
    ("cgroup", &[obj(1, TRUSTED)]),
    ("tcp", &[obj(1, TRUSTED)]),
    ("udp", &[obj(1, TRUSTED)]),
    ("unix", &[obj(1, NULL)]),
    ("netlink", &[obj(1, NULL)]),
    ("ipv6_route", &[obj(1, NULL)]),
    ("ksym", &[obj(1, NULL)]),
    ("kmem_cache", &[obj(1, TRUSTED)]),
    ("dmabuf", &[obj(1, NULL)]),
];

fn refuse<T>(errno: i32, text: impl Into<String>) -> R<T> {
    Err(Box::new(Rejection::refuse(errno, text)))
}

fn unsupported<T>(what: impl Into<String>) -> R<T> {
    let at = "verifier.c:bpf_check_attach_target";
    Err(Box::new(Rejection::unsupported(what, at)))
}

/// KERNEL v6.18 verifier.c:check_attach_btf_id
///
/// `None` for programs that have no such target, and for targets the kernel's BTF does not have:
/// a loader finds those before the kernel does.
pub(crate) fn resolve<'a>(
    p: &'a Program,
    env: &'a dyn KernelEnv,
    o: &Options<'a>,
    main: FuncFacts,
) -> R<Option<Attach<'a>>> {
    if let Some(t) = o.target.filter(|_| takes_target(p)) {
        return of_program(p, &t, o, main);
    }
    let to = p.attach_to.as_deref().unwrap_or_default();
    let typed = matches!(p.prog_type, ProgType::Tracing | ProgType::Lsm | ProgType::StructOps);
    if p.prog_type == ProgType::Ext {
        return no_target(env, to);
    }
    let Some(btf) = env.btf().filter(|_| typed) else { return Ok(None) };
    let found = match (p.prog_type, p.attach_type) {
        (ProgType::StructOps, _) => member(btf, to),
        (ProgType::Tracing, Some(AttachType::TraceRawTp)) => raw_tp(btf, to),
        (ProgType::Tracing, Some(AttachType::TraceIter)) => iter(btf, to),
        (ProgType::Lsm, _) => function(btf, &format!("bpf_lsm_{to}")),
        _ => function(btf, to),
    };
    let Some(func) = found else { return Ok(None) };
    match (p.prog_type, p.attach_type) {
        (ProgType::StructOps, _) => check_member(p, to)?,
        (ProgType::Lsm, _) => check_lsm(p, &func, to)?,
        (_, Some(AttachType::TraceRawTp | AttachType::TraceIter)) => {}
        _ => check_trampoline(p, &func, env, o.opts.level)?,
    }
    Ok(Some(func))
}

/// Programs that may be attached to a program.
pub(crate) fn takes_target(p: &Program) -> bool {
    matches!(p.prog_type, ProgType::Ext | ProgType::Tracing)
}

/// An extension without the program it extends: the loader has looked for a kernel function.
fn no_target<'a>(env: &dyn KernelEnv, to: &str) -> R<Option<Attach<'a>>> {
    if env.btf().is_some_and(|b| b.find(to, Kind::Func).is_some()) {
        return refuse(EINVAL, "Cannot replace kernel functions");
    }
    unsupported("an extension without the program it extends")
}

/// A function of a program.
fn of_program<'a>(
    p: &Program,
    t: &Target<'a>,
    o: &Options<'_>,
    main: FuncFacts,
) -> R<Option<Attach<'a>>> {
    t.check(p, o.prog_btf, main)?;
    let of = t.prog_type();
    if p.prog_type == ProgType::Ext {
        let typed = matches!(of, ProgType::Tracing | ProgType::Lsm | ProgType::StructOps);
        return match typed {
            true => unsupported(format!("extensions of {} programs", of.name())),
            false => Ok(None),
        };
    }
    let Some((ret, params)) = t.btf.func_proto(t.func) else { return refuse(EINVAL, "") };
    let (name, untyped) = (t.btf.name(t.func), t.facts().unreliable);
    let of_program = Some(of);
    Ok(Some(Attach { name, ret, params, of_program, untyped, ..plain(t.btf) }))
}

/// A function by name.
fn function<'a>(btf: &'a Btf, name: &str) -> Option<Attach<'a>> {
    let id = btf.find(name, Kind::Func)?;
    let (ret, params) = btf.func_proto(id)?;
    Some(Attach { name: btf.name(id), ret, params, ..plain(btf) })
}

fn iter<'a>(btf: &'a Btf, to: &str) -> Option<Attach<'a>> {
    let args = ITERS.iter().find(|r| r.0 == to)?.1;
    Some(Attach { args, ..function(btf, &format!("bpf_iter_{to}"))? })
}

fn raw_tp<'a>(btf: &'a Btf, to: &'a str) -> Option<Attach<'a>> {
    let (ret, params) = btf.func_proto(btf.find(&format!("btf_trace_{to}"), Kind::Typedef)?)?;
    // The first argument is the registration's own.
    let (before, params) = params.split_first()?;
    Some(Attach { name: to, ret, params, before: Some(before), ..plain(btf) })
}

/// `to` is `STRUCT/MEMBER`.
fn member<'a>(btf: &'a Btf, to: &str) -> Option<Attach<'a>> {
    let (name, member) = to.split_once('/')?;
    let ops = btf.find(name, Kind::Struct)?;
    btf.find(&format!("bpf_struct_ops_{name}"), Kind::Struct)?;
    let m = btf.members(ops).find(|m| m.name == member)?;
    let (ret, params) = btf.func_proto(m.ty)?;
    let stub = btf.find(&format!("{name}__{member}"), Kind::Func);
    let stub = stub.and_then(|s| btf.func_proto(s)).map_or(&[][..], |s| s.1);
    Some(Attach { name: m.name, ret, params, stub, ..plain(btf) })
}

/// `bpf_struct_ops_supported`, and `check_member` of the structures that have it.
fn check_member(p: &Program, to: &str) -> R {
    let (name, member) = to.split_once('/').unwrap_or((to, ""));
    let sleepable = p.flags & BPF_F_SLEEPABLE != 0;
    let Some(ops) = struct_ops::ops(name) else {
        return match sleepable {
            true => unsupported(format!("sleepable members of struct {name}")),
            false => Ok(()),
        };
    };
    let errno = match ops {
        _ if ops.without_stub.contains(&member) => ENOTSUPP,
        _ if sleepable && !ops.sleepable.contains(&member) => EINVAL,
        _ => return Ok(()),
    };
    refuse(errno, format!("attach to unsupported member {member} of struct {name}"))
}

/// `bpf_lsm_verify_prog`, after whether the hook may sleep.
fn check_lsm(p: &Program, func: &Attach<'_>, to: &str) -> R {
    if p.flags & BPF_F_SLEEPABLE != 0 && !hooks::LSM_SLEEPABLE.contains(&to) {
        return refuse(EINVAL, format!("{} is not sleepable", func.name));
    }
    if !is_gpl_compatible(&p.license) {
        return refuse(EINVAL, "LSM programs must have a GPL compatible license");
    }
    if hooks::LSM_DISABLED.contains(&to) {
        let id = func.btf.find(func.name, Kind::Func).unwrap_or(0);
        let m = format!("attach_btf_id {id} points to disabled hook {}", func.name);
        return refuse(EINVAL, m);
    }
    Ok(())
}

/// What fentry, fexit and fmod_ret may be attached to.
fn check_trampoline(p: &Program, func: &Attach<'_>, env: &dyn KernelEnv, level: Level) -> R {
    let name = func.name;
    let modify = p.attach_type == Some(AttachType::ModifyReturn);
    if env.lacks_symbol(name) {
        return refuse(ENOENT, format!("The address of function {name} cannot be found"));
    }
    if p.flags & BPF_F_SLEEPABLE != 0 {
        if !traced::may_sleep(name, level) {
            return refuse(EINVAL, format!("{name} is not sleepable"));
        }
    } else if modify && !traced::may_modify(name, level) {
        return refuse(EINVAL, format!("{name}() is not modifiable"));
    }
    if traced::denied(name) {
        let m = format!("Attaching tracing programs to function '{name}' is rejected.");
        return refuse(EINVAL, m);
    }
    let at_exit = modify || p.attach_type == Some(AttachType::TraceFexit);
    if at_exit && traced::never_returns(name, level) {
        let m = "Attaching fexit/fmod_ret to __noreturn function";
        return refuse(EINVAL, format!("{m} '{name}' is rejected."));
    }
    Ok(())
}

impl Attach<'_> {
    /// `get_ctx_arg_idx`: arguments take whole words, structures more than one. It counts from the
    /// parameter in front, the number is taken from the first.
    pub(crate) fn arg_at(&self, off: u32) -> usize {
        let words =
            |ty| if ty == 0 { 0 } else { self.btf.size_of(ty).unwrap_or(8).div_ceil(8) * 8 };
        let mut end = 0;
        let all = self.before.into_iter().chain(self.params);
        for (i, p) in all.enumerate() {
            end += words(p.ty);
            if off < end {
                return i;
            }
        }
        end += words(self.ret);
        let all = self.params.len() + usize::from(self.before.is_some());
        if off < end { all } else { all + 1 }
    }

    /// It returns nothing.
    pub(crate) fn returns_void(&self) -> bool {
        self.ret == 0
    }
}

/// `bpf_lsm_is_trusted` and its like: arguments are pointers that may be trusted.
pub(crate) fn args_trusted(p: &Program) -> bool {
    let to = p.attach_to.as_deref().unwrap_or_default();
    match p.prog_type {
        ProgType::Tracing => {
            matches!(p.attach_type, Some(AttachType::TraceRawTp | AttachType::TraceIter))
        }
        ProgType::Lsm => !hooks::LSM_UNTRUSTED.contains(&to),
        ProgType::StructOps => true,
        _ => false,
    }
}

/// `bpf_lsm_get_retval_range`.
pub(crate) fn lsm_range(p: &Program) -> (i32, i32) {
    let to = p.attach_to.as_deref().unwrap_or_default();
    if hooks::LSM_BOOL.contains(&to) { (0, 1) } else { (-4095, 0) }
}
