//! The reference page and the skeleton of a new file.

/// The page that `orrery scenario reference` prints.
#[must_use]
pub fn page() -> &'static str {
    include_str!("../reference.md")
}

/// A file to start from: what `orrery scenario new` writes, line by line.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// `file: "x.bpf.o"` or `asm: ..`, the inside of the object.
    pub object: String,
    /// Architectures, when it is not for all.
    pub archs: Vec<String>,
    /// Names of the nics.
    pub nics: Vec<String>,
    /// Items of `attach`.
    pub attach: Vec<String>,
    /// Items of `tasks`.
    pub tasks: Vec<String>,
    /// Actions of user space, after all packets.
    pub actions: Vec<String>,
    /// Items of `expect`.
    pub expect: Vec<String>,
    /// Remarks, a line each.
    pub remarks: Vec<String>,
}

impl Start {
    /// The text of the file.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out =
            String::from("// What arrives, what runs, what must hold: orrery scenario reference\n");
        out.extend(self.remarks.iter().map(|r| format!("// {r}\n")));
        out += "Scenario(\n    orrery: 1,\n    about: \"one sentence\",\n";
        let nics: Vec<String> = self.nics.iter().map(|n| format!("\"{n}\": ()")).collect();
        let archs = match self.archs.as_slice() {
            [] => String::new(),
            some => format!("archs: [{}], ", some.join(", ")),
        };
        let nics = nics.join(", ");
        // System calls take longer than packets.
        let until = if self.tasks.is_empty() { "1ms" } else { "20ms" };
        out += &format!("    machine: ({archs}nics: {{{nics}}}, until: \"{until}\"),\n");
        out += &format!("    objects: {{\"main\": ({})}},\n", self.object);
        out += &list("attach", '[', &self.attach);
        out += &list("tasks", '{', &self.tasks);
        if !self.nics.is_empty() {
            out += PACKETS;
        }
        let send = |(n, nic): (usize, &String)| {
            let at = n * 10;
            let next = at + 5;
            [
                format!("At(\"{at}us\", Send(packet: \"udp\", on: \"{nic}\"))"),
                format!("At(\"{next}us\", Send(packet: \"tcp\", on: \"{nic}\"))"),
            ]
        };
        let act = |action: &String| format!("After(\"10us\", {action})");
        let sent = self.nics.iter().enumerate().flat_map(send);
        let steps: Vec<String> = sent.chain(self.actions.iter().map(act)).collect();
        out += &list("timeline", '[', &steps);
        out + &list("expect", '[', &self.expect) + ")\n"
    }
}

const PACKETS: &str = concat!(
    "    packets: {\n",
    "        \"udp\": [Eth(), Ip4(src: \"10.0.0.2\", dst: \"10.0.0.1\"), ",
    "Udp(sport: 9000, dport: 53), Text(\"hello\")],\n",
    "        \"tcp\": [Eth(), Ip4(src: \"10.0.0.2\", dst: \"10.0.0.1\"), ",
    "Tcp(sport: 9000, dport: 80, flags: \"S\")],\n",
    "    },\n",
);

fn list(name: &str, open: char, items: &[String]) -> String {
    if items.is_empty() {
        return String::new();
    }
    let close = if open == '{' { '}' } else { ']' };
    let lines: String = items.iter().map(|i| format!("        {i},\n")).collect();
    format!("    {name}: {open}\n{lines}    {close},\n")
}

#[cfg(test)]
mod tests {
    use super::Start;
    use crate::parse::{NoFiles, parse};

    #[test]
    fn a_file_to_start_from_parses() {
        let item = |text: &str| vec![text.to_owned()];
        let start = Start {
            object: "file: \"x.bpf.o\"".to_owned(),
            archs: item("s390x"),
            nics: item("eth0"),
            attach: item("Xdp(prog: \"p\", nic: \"eth0\")"),
            tasks: item("\"app\": (script: [Sys(call: \"getpid\")])"),
            actions: item("ReadIter(prog: \"tasks\")"),
            expect: item("Verdicts(prog: \"p\", are: (PASS: 2))"),
            remarks: item("a remark"),
        };
        let parsed = parse("new.ron", &start.text(), &[], &NoFiles);
        assert!(parsed.scenario.is_some(), "{:?}", parsed.findings);
    }
}
