//! Networks of RUN: a private one leads out and to nothing of this machine's loopback, and ends with its command.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs, UdpSocket};
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Rbuild, finish, has_program};
use crate::leftovers::on_busybox;

const TOOLS: [&str; 2] = ["pasta", "slirp4netns"];

/// Answers everybody who connects with a text.
fn serve(address: IpAddr, text: &'static str) -> SocketAddr {
    let listener = TcpListener::bind((address, 0)).expect("listen");
    let address = listener.local_addr().expect("the address that was given");
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            // Somebody who goes away at once is none of our business.
            drop({ connection }.write_all(text.as_bytes()));
        }
    });
    address
}

/// The address that this machine has in its network, if it has one. Nothing is sent for that.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

/// The tools that work here. Where one does not, that has to be told before anything runs.
fn tools(rbuild: &Rbuild) -> Result<Vec<&'static str>, String> {
    let mut tools = Vec::new();
    for tool in TOOLS {
        let context = on_busybox(rbuild, "probe", "RUN true\n")?;
        let run = rbuild.build(&context, &["--network", tool, "--no-cache"]);
        if run.code == Some(0) {
            tools.push(tool);
            continue;
        }
        let remedy = if has_program(tool) { "/dev/net/tun" } else { "install passt" };
        run.failed(1).says("give RUN a private network: ").says(remedy).does_not_say("DONE");
    }
    if tools.is_empty() { Err("neither pasta nor slirp4netns works".to_owned()) } else { Ok(tools) }
}

fn text_of(process: u32, file: &str) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{process}/{file}")).ok()
}

fn parent(process: u32) -> Option<u32> {
    text_of(process, "stat")?.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// Processes of tools that come from a process.
fn connectors(of: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").expect("list processes").flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_tool = |process: &u32| {
        let name = text_of(*process, "comm").unwrap_or_default();
        TOOLS.iter().any(|tool| name.starts_with(tool)) || name.starts_with("passt")
    };
    let comes_from =
        |process: &u32| std::iter::successors(Some(*process), |process| parent(*process)).any(|one| one == of);
    ids.filter(is_tool).filter(comes_from).collect()
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < until, "waited for {what} in vain");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn kill(child: Child) {
    let id = Pid::from_raw(i32::try_from(child.id()).expect("ids are small")).expect("an id");
    kill_process(id, Signal::KILL).expect("kill rbuild");
    finish(child);
}

for_each_user! {
    fn a_private_network_leads_out_and_not_to_the_loopback(rbuild) {
        let tools = match tools(&rbuild) {
            Ok(tools) => tools,
            Err(reason) => skip!("{reason}"),
        };
        let Some(address) = own_address() else { skip!("this machine has no network") };
        let outside = serve(address, "from the network\n");
        let loopback = serve("127.0.0.1".parse().expect("an address"), "from the loopback\n");
        let port = loopback.port();
        let names = if ("deb.debian.org", 80).to_socket_addrs().is_ok() { "nslookup deb.debian.org || exit 7" } else { ":" };
        let rest = format!(
            "RUN cat /etc/resolv.conf; {names}; timeout 5 nc {} {} < /dev/null; \
             for host in 127.0.0.1 10.0.2.2 10.0.2.100 10.0.2.3; do timeout 2 nc $host {port} < /dev/null; done; echo asked $((40 + 2))\n",
            outside.ip(),
            outside.port(),
        );
        let context = on_busybox(&rbuild, "private", &rest).expect("it was there before");
        for tool in tools {
            rbuild
                .build(&context, &["--network", tool, "--no-cache"])
                .succeeded()
                .says("nameserver 10.0.2.3\n")
                .says(" from the network\n")
                .says("asked 42")
                .does_not_say(" from the loopback\n");
        }
    }

    fn who_connects_a_network_ends_with_the_command(rbuild) {
        let tools = match tools(&rbuild) {
            Ok(tools) => tools,
            Err(reason) => skip!("{reason}"),
        };
        for tool in tools {
            let rest = format!("RUN echo {tool}\nRUN --network=none sleep 1000\n");
            let context = on_busybox(&rbuild, tool, &rest).expect("it was there before");
            let path = context.directory.to_str().expect("paths of tests are UTF-8");
            let child = rbuild.start(["build", "--progress", "plain", "--network", tool, path]);
            let process = child.id();
            wait_for("the last command", || descendant_runs(process, "sleep"));
            assert_eq!(connectors(process), Vec::<u32>::new(), "{tool} goes on");
            kill(child);
        }
    }

    fn who_connects_a_network_ends_with_a_killed_build(rbuild) {
        let tools = match tools(&rbuild) {
            Ok(tools) => tools,
            Err(reason) => skip!("{reason}"),
        };
        let context = on_busybox(&rbuild, "killed", "RUN sleep 1000\n").expect("it was there before");
        let path = context.directory.to_str().expect("paths of tests are UTF-8");
        for tool in tools {
            let child = rbuild.start(["build", "--progress", "plain", "--network", tool, path]);
            let process = child.id();
            wait_for("the command", || descendant_runs(process, "sleep"));
            let connectors = connectors(process);
            assert!(!connectors.is_empty(), "{tool} does not run");
            kill(child);
            wait_for("its end", || connectors.iter().all(|process| text_of(*process, "stat").is_none()));
        }
    }

    fn names_are_resolved_as_the_command_line_says_and_no_layer_tells_of_it(rbuild) {
        let context = match on_busybox(&rbuild, "names", "RUN cat /etc/resolv.conf\n") {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        let flags = ["--dns", "192.0.2.53", "--dns-search", "corp.example", "--dns-option", "ndots:3", "--no-cache"];
        let with = rbuild
            .build(&context, &flags)
            .succeeded()
            .says(" nameserver 192.0.2.53\n")
            .says(" search corp.example\n")
            .says(" options ndots:3\n");
        let without = rbuild.build(&context, &[]).succeeded().all_cached();
        assert_eq!(with.image_id(), without.image_id());
        let files = rbuild.path("out/files");
        rbuild.build(&context, &["-o", files.to_str().expect("paths of tests are UTF-8")]).succeeded();
        assert!(!std::fs::read_to_string(files.join("etc/resolv.conf")).unwrap_or_default().contains("192.0.2.53"));
    }
}

/// Whether a command of that name runs for a build.
fn descendant_runs(of: u32, name: &str) -> bool {
    let processes = std::fs::read_dir("/proc").expect("list processes").flatten();
    let mut ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.any(|process| {
        text_of(process, "cmdline").is_some_and(|line| line.split('\0').any(|word| word == name))
            && std::iter::successors(Some(process), |process| parent(*process)).any(|one| one == of)
    })
}
