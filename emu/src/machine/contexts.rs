//! Register contexts of a CPU: entering a program or a callback, going on, throwing.

use kernel_model::Frame;

use super::*;

impl Machine {
    /// Pushes a context and sets the registers of a native call; with `laps` it returns to the
    /// lap stub.
    pub(super) fn enter(
        &mut self,
        cpu: CpuId,
        entry: Entry,
        laps: bool,
    ) -> Result<u64, MachineError> {
        let lane = &self.lanes[cpu.idx()];
        let save = !lane.contexts.is_empty() && !lane.switched;
        let vcpu = self.vcpu(cpu)?;
        let spec = vcpu.spec();
        let saved = save.then(|| vcpu.regs());
        let called = self.called_stub(cpu, &entry);
        let lane = &mut self.lanes[cpu.idx()];
        let top = match lane.contexts.last_mut() {
            None => {
                lane.run_start = lane.charged;
                if let Some(slot) = self.slots[cpu.idx()].as_mut().filter(|_| self.covering) {
                    slot.vcpu.cover_fresh();
                }
                stack_top(cpu.0)
            }
            Some(below) => {
                below.regs = saved.unwrap_or(below.regs);
                below.regs.get(spec.sp)
            }
        };
        let slots = (top & !15) - 16;
        let (cfa, mut sp) = (slots, slots - spec.frame_reserve);
        let back = match called {
            _ if laps => LAP_STUB,
            Some(stub) => stub + CALLBACK_RETURN,
            None => RETURN_TRAP,
        };
        // An overflowing stack is found by the program's own accesses.
        if called.is_some() {
            self.leave_trail(cpu, slots);
        } else {
            // For the lap stub, and a debugger where the program has forgotten its argument.
            let _ = self.kernel.mem.write_u64(slots, entry.args[0]);
            if laps {
                let _ = self.kernel.mem.write_u64(slots + 8, entry.func_addr);
            }
        }
        if spec.link.is_none() {
            sp -= 8;
            let _ = self.kernel.mem.write_u64(sp, back);
        }
        let lane = &mut self.lanes[cpu.idx()];
        lane.switched = false;
        let (callback, resume) = (entry.callback, entry.func_addr);
        let regs = RegFile::default();
        let (held, called) = (None, None);
        lane.contexts.push(Context { callback, resume, cfa, regs, held, called });
        self.vcpu(cpu)?.set_call(entry.args, sp, back);
        Ok(entry.func_addr)
    }

    /// The stub of the function whose callback an entry is.
    fn called_stub(&self, cpu: CpuId, entry: &Entry) -> Option<u64> {
        let mut below = self.kernel.cpus[cpu.idx()].frames.iter().rev().skip(1);
        let in_call = matches!(below.next(), Some(Frame::Helper(_)));
        let resume = self.lanes[cpu.idx()].contexts.last()?.resume;
        let stub = resume & !(STUB_STRIDE - 1);
        let called = (HELPER_STUBS..RETURN_TRAP).contains(&stub);
        (entry.callback && in_call && called).then_some(stub)
    }

    /// Words from which a debugger finds the way from a callback to the program below it: the stack
    /// pointer with which that called, and where the call returns to.
    fn leave_trail(&mut self, cpu: CpuId, at: u64) {
        let spec = crate::unicorn::spec(self.arch());
        let below = &self.lanes[cpu.idx()].contexts.last().expect("it called").regs;
        let sp = below.get(spec.sp);
        let pushed = || self.kernel.mem.read_u64(sp).unwrap_or(0);
        let back = spec.link.map_or_else(pushed, |r| below.get(r));
        // An overflowing stack is found by the program's own accesses.
        let _ = self.kernel.mem.write_u64(at, sp);
        let _ = self.kernel.mem.write_u64(at + 8, back);
    }

    /// Gives a helper's result to the innermost context.
    pub(super) fn resume(&mut self, cpu: CpuId, r0: u64) -> Result<u64, MachineError> {
        let pc = self.switch_in(cpu)?;
        let vcpu = self.vcpu(cpu)?;
        let ret = vcpu.spec().ret;
        vcpu.set_reg(ret, r0);
        Ok(pc)
    }

    /// The vCPU gets the registers of the innermost context; where that resumes.
    pub(super) fn switch_in(&mut self, cpu: CpuId) -> Result<u64, MachineError> {
        let lane = &mut self.lanes[cpu.idx()];
        let switched = std::mem::take(&mut lane.switched);
        let top = lane.contexts.last().expect("a program goes on");
        let (regs, pc) = (switched.then_some(top.regs), top.resume);
        if let Some(regs) = &regs {
            self.vcpu(cpu)?.set_regs(regs);
        }
        Ok(pc)
    }

    /// Unwinds the innermost context to the caller of its program, as `arch_bpf_stack_walk` and the
    /// epilogue of the exception callback do in the kernel, and sets the registers of a call of
    /// the callback; its address, when the program has one.
    pub(super) fn throw(&mut self, cpu: CpuId, cookie: u64) -> Result<Option<u64>, MachineError> {
        let running = self.kernel.cpus[cpu.idx()].prog_frame().map(|p| p.prog);
        let loaded = running.and_then(|p| self.text.prog(p)).cloned();
        let found = loaded.as_ref().and_then(|l| Some((l, l.compiled.exception?)));
        let Some((loaded, at)) = found else { return Ok(None) };
        let context = self.lanes[cpu.idx()].contexts.last().expect("a program threw");
        let cfa = context.cfa;
        let saved = &loaded.compiled.debug.funcs[0].saved;
        let mut back = 0;
        for s in saved {
            let value = self.kernel.mem.read_u64(cfa.wrapping_add_signed(s.cfa_off.into()));
            // The frame was written by the program itself.
            let value = value.unwrap_or(0);
            match s.reg {
                Some(r) => self.vcpu(cpu)?.set_reg(NativeReg(r.num), value),
                None => back = value,
            }
        }
        let vcpu = self.vcpu(cpu)?;
        let spec = vcpu.spec();
        let sp = cfa - spec.frame_reserve - if spec.link.is_none() { 8 } else { 0 };
        vcpu.set_call([cookie, 0, 0, 0, 0], sp, back);
        Ok(Some(loaded.base + u64::from(at.0)))
    }
}
