//! What a command is given and what comes back from it.

use std::sync::Mutex;

use rbuild::sandbox::{Cancel, Network, RunSpec, SandboxError, Status, Streams, UserSpec};

use crate::Case;
use crate::world::{Entry, World};

pub const CASES: &[Case] = &[
    ("exit codes and signals come back as they were", exit_codes),
    ("a missing program is told apart from a failing one", missing_program),
    ("output comes in order, apart by stream", output_order),
    ("ten megabytes of output come whole", much_output),
    ("identity: user, groups, capabilities, host name, umask, limits", identity),
    ("environment, working directory and PATH are the given ones", environment),
    ("changes land in upper with the right owners", changes_land_in_upper),
    ("a second command sees what the first one did", chain),
    ("FROM scratch: no lower layers at all", no_layers),
    ("a network of its own has loopback only", own_network),
    ("workers: arguments, descriptors, failures, panics", workers),
    ("workers have every id of an image", worker_ids),
    ("remove_trees removes what a command left", remove_trees),
    ("paths outside the base directory are refused", outside_base),
    ("eight commands at once", eight_at_once),
];

fn exit_codes(world: &World) {
    for code in [0, 1, 7, 125, 126, 127, 128, 137, 255] {
        assert_eq!(world.run(&world.shell(&format!("exit {code}"))).exit.status, Status::Code(code));
    }
    for signal in [9, 11, 15] {
        assert_eq!(world.run(&world.shell(&format!("kill -{signal} $$"))).exit.status, Status::Signal(signal));
    }
}

fn missing_program(world: &World) {
    for program in ["nowhere", "/bin/nowhere", "/etc"] {
        let spec = RunSpec { args: vec![program.to_owned()], ..world.shell("") };
        let error = world.try_run(&spec).unwrap_err();
        assert!(matches!(&error, SandboxError::Program { program: named, .. } if named == program), "{error:?}");
    }
    assert_eq!(world.run(&world.shell("nowhere")).exit.status, Status::Code(127));
}

fn output_order(world: &World) {
    let went = world.run(&world.shell("for i in $(seq 1 200); do echo out $i; echo err $i >&2; done; printf end"));
    let expected = |word: &str| (1..=200).map(|number| format!("{word} {number}\n")).collect::<String>();
    assert_eq!(went.stdout, expected("out") + "end");
    assert_eq!(went.stderr, expected("err"));
}

fn much_output(world: &World) {
    let total = Mutex::new(0);
    let spec = world.shell("dd if=/dev/zero bs=1048576 count=10 2>/dev/null");
    world
        .sandbox
        .run(&spec, &Streams::captured(&|_, bytes| *total.lock().unwrap() += bytes.len()), &Cancel::new())
        .unwrap();
    assert_eq!(*total.lock().unwrap(), 10 << 20);
}

fn identity(world: &World) {
    assert_eq!(world.say("id -u; id -g; id -G; hostname; umask; ulimit -c"), "0\n0\n0\nbuilder\n0022\n0\n");
    let status = world.say("grep -E '^(Cap|Seccomp:|NoNewPrivs)' /proc/self/status");
    for line in ["CapInh:\t0000000000000000", "CapEff:\t00000000a80425fb", "CapBnd:\t00000000a80425fb", "Seccomp:\t2"] {
        assert!(status.contains(line), "{line} in {status}");
    }
    assert!(status.contains("CapAmb:\t0000000000000000") && status.contains("NoNewPrivs:\t0"), "{status}");
    let user = UserSpec { uid: 1000, gid: 1001, groups: vec![5, 1002, 65535] };
    let went = world.run(&RunSpec { user, ..world.shell("id -u; id -g; id -G; grep CapEff /proc/self/status") });
    // With one id the kernel goes on seeing root.
    let capabilities = if world.records() { "00000000a80425fb" } else { "0000000000000000" };
    let expected = format!("1000\n1001\n1001 5 1002 65535\nCapEff:\t{capabilities}\n");
    assert_eq!(went.stdout, expected, "{}", went.stderr);
    let insecure = RunSpec { security: rbuild::sandbox::Security::Insecure, ..world.shell("mount -t tmpfs x /tmp") };
    assert_eq!(world.run(&insecure).exit.status, Status::Code(0));
    for wrong in [UserSpec { uid: u32::MAX, ..UserSpec::default() }, UserSpec { gid: u32::MAX, ..UserSpec::default() }]
    {
        let error = world.try_run(&RunSpec { user: wrong, ..world.shell("true") }).unwrap_err();
        assert!(matches!(error, SandboxError::SetUp { .. }), "{error:?}");
    }
}

fn environment(world: &World) {
    let env = [("A", "b c"), ("PATH", "/nowhere:/bin")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    let args = ["env".to_owned()].to_vec();
    let spec = RunSpec { env: env.to_vec(), args, ..world.shell("") };
    assert_eq!(world.run(&spec).stdout, "A=b c\nPATH=/nowhere:/bin\n");
    assert_eq!(world.run(&RunSpec { cwd: "/tmp".to_owned(), ..world.shell("pwd") }).stdout, "/tmp\n");
    let error = world.try_run(&RunSpec { cwd: "/nowhere".to_owned(), ..world.shell("pwd") }).unwrap_err();
    assert!(error.to_string().contains("enter the working directory: \"/nowhere\""), "{error}");
}

fn changes_land_in_upper(world: &World) {
    let spec = world.shell("echo hi > /root/f; chown 1000:65535 /root/f; mkdir /new; rm /bin/wc; chmod 4755 /root/f");
    assert_eq!(world.run(&spec).exit.status, Status::Code(0));
    let tree = world.tree(&spec.upper);
    assert!(tree.contains("root/f 104755 1000:65535 3\n"), "{tree}");
    assert!(tree.contains("new 40755 0:0 "), "{tree}");
    assert!(tree.contains("bin/wc 20000 0:0 0\n"), "no whiteout: {tree}");
    assert_eq!(tree.lines().count(), 5, "{tree}");
}

fn chain(world: &World) {
    let first = world.shell("echo one > /file; rm -r /root; mkdir /root; touch /root/new");
    assert_eq!(world.run(&first).exit.status, Status::Code(0));
    let lowers = vec![first.upper.clone(), world.image.clone()];
    let second = RunSpec { lowers, ..world.shell("cat /file; ls /root") };
    assert_eq!(world.run(&second).stdout, "one\nnew\n");
}

fn no_layers(world: &World) {
    let spec = RunSpec { lowers: Vec::new(), args: vec!["/nothing".to_owned()], ..world.shell("") };
    assert!(matches!(world.try_run(&spec).unwrap_err(), SandboxError::Program { .. }));
    assert_eq!(world.tree(&spec.upper), "");
}

fn own_network(world: &World) {
    let spec = RunSpec { network: Network::None, ..world.shell("ls /sys/class/net; cat /sys/class/net/lo/flags") };
    let went = world.run(&spec);
    assert_eq!(went.stdout, "lo\n0x9\n", "{}", went.stderr);
    let outer = std::fs::read_link("/proc/self/ns/net").unwrap();
    assert_eq!(world.say("readlink /proc/self/ns/net").trim(), outer.to_str().unwrap());
}

fn workers(world: &World) {
    let length = 5 << 20;
    assert_eq!(world.ask("length", &vec![b'x'; length]), length.to_string());
    let message =
        |name: &str, args: &[u8]| world.sandbox.worker(name, args, Vec::new()).unwrap().wait().unwrap_err().to_string();
    assert_eq!(message("fail", b"because"), "because");
    assert!(message("panic", b"").contains("on purpose"));
    assert!(message("nobody", b"").contains("there is none of that name"));
    assert!(message("fail", &vec![b'\n'; 1 << 20]).len() > 1000, "a long message is shortened, not lost");
    let many: Vec<_> = (0..700).map(|_| world.sandbox.worker("fail", b"", Vec::new())).collect();
    assert!(many.into_iter().all(|worker| worker.unwrap().wait().is_err()));
}

fn worker_ids(world: &World) {
    let map = world.ask("ids", b"");
    let ids: u64 = map.lines().map(|line| line.split_ascii_whitespace().nth(2).unwrap().parse::<u64>().unwrap()).sum();
    assert!(if world.records() { ids == 1 } else { ids >= 65536 }, "{map}");
    let root: u32 = map.split_ascii_whitespace().nth(1).unwrap().parse().unwrap();
    assert_eq!(root, world.sandbox.owner().0);
    assert_ne!(root, 0, "container root is the host's root");
}

fn remove_trees(world: &World) {
    let spec =
        world.shell("mkdir -p /a/b && touch /a/b/c && chown -R 1234 /a && chmod 0 /a/b /a && ln -s /etc /a-link");
    assert_eq!(world.run(&spec).exit.status, Status::Code(0));
    world.sandbox.remove_trees(&[&spec.upper, &spec.work, &world.base.join("never-was")]).unwrap();
    assert!(!spec.upper.exists() && !spec.work.exists());
    assert!(world.image.join("etc").is_dir());
}

fn outside_base(world: &World) {
    for path in ["/etc", "../x", "a/../../b", "."] {
        let error = world.sandbox.remove_trees(&[path]).unwrap_err();
        assert!(matches!(error, SandboxError::OutsideBase { .. }), "{path}: {error:?}");
        let spec = RunSpec { upper: path.into(), ..world.shell("true") };
        assert!(matches!(world.try_run(&spec).unwrap_err(), SandboxError::OutsideBase { .. }));
    }
}

fn eight_at_once(world: &World) {
    let shared = world.layer(&[Entry::File("shared".to_owned(), "yes".to_owned())]);
    std::thread::scope(|scope| {
        for number in 0..8 {
            let shared = shared.clone();
            scope.spawn(move || {
                for _ in 0..10 {
                    let lowers = vec![shared.clone(), world.image.clone()];
                    let spec = RunSpec { lowers, ..world.shell(&format!("cat /shared; echo {number}; exit {number}")) };
                    let went = world.run(&spec);
                    assert_eq!(went.stdout, format!("yes{number}\n"));
                    assert_eq!(went.exit.status, Status::Code(number));
                    assert_eq!(world.tree(&spec.upper), "");
                }
            });
        }
    });
}
