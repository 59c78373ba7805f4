//! Attacks, named by their rows in the threat catalogue and by the CVEs they are modelled on.

use rbuild::sandbox::{Network, RunSpec, SandboxError, Status, UserSpec};

use crate::Case;
use crate::inside;
use crate::world::{Entry, World};

pub const CASES: &[Case] = &[
    ("S1 CVE-2024-21626: descriptors are 0, 1 and 2 only", descriptors),
    ("S1 CVE-2024-21626: a working directory outside the root is refused", working_directory),
    ("S2 CVE-2019-19921: an image with links for /proc or /sys is refused", linked_proc),
    ("S3 CVE-2026-41579: an image with a link for /dev is refused, the host untouched", linked_dev),
    ("S4: masks are empty whatever the image ships as /dev/null", masks),
    ("S6 CVE-2017-5226: no terminal, no TIOCSTI", terminal),
    ("S7: the shim cannot be killed, traced or read", shim),
    ("S8: system calls are denied, unknown ones missing", system_calls),
    ("S9 CVE-2020-15257: abstract sockets of the host are out of reach", abstract_sockets),
    ("S10: without a network the host's loopback and the metadata address are out of reach", loopback),
    ("S11: no path of the host in the mount table", mount_table),
    ("S13: no device nodes", devices),
    ("S16: shared memory does not outlive the command", shared_memory),
    ("S17: a crash leaves no core file", core_files),
    ("S18: host name and kernel settings stay", settings),
    ("D1 CVE-2024-23652: a link in place of a mount point deletes nothing", stub_deletion),
];

fn descriptors(world: &World) {
    // `ls` itself opens the directory: that is 3.
    assert_eq!(world.say("ls /proc/self/fd | sort -n | tr '\\n' ' '"), "0 1 2 3 ");
    assert_eq!(world.say("readlink /proc/$$/fd/0"), "/dev/null\n");
    let spec = RunSpec { args: ["ls", "/proc/self/fd"].map(str::to_owned).to_vec(), ..world.shell("") };
    assert_eq!(world.run(&spec).stdout, "0\n1\n2\n3\n");
}

fn working_directory(world: &World) {
    // Every run there copies the root first.
    let last = if world.in_chroot() { 12 } else { 40 };
    for number in 3..last {
        for cwd in [format!("/proc/self/fd/{number}"), format!("/proc/1/fd/{number}"), "/proc/self/root".to_owned()] {
            let error = world.try_run(&RunSpec { cwd, ..world.shell("cat ../../../etc/shadow") }).unwrap_err();
            let wanted = if world.in_chroot() { "enter the image's root" } else { "enter the working directory" };
            assert!(matches!(&error, SandboxError::SetUp { step, .. } if step == wanted), "{error}");
        }
    }
    let error = world.try_run(&RunSpec { cwd: "/proc/self/root".to_owned(), ..world.shell("true") }).unwrap_err();
    // Where /proc is empty, it names nothing at all.
    let because = if world.in_chroot() { "No such file or directory" } else { "outside the root" };
    assert!(error.to_string().contains(because), "{error}");
}

fn refused(world: &World, entries: &[Entry], because: &str) {
    let lowers = vec![world.layer(entries)];
    let error = world.try_run(&RunSpec { lowers, ..world.shell("true") }).unwrap_err();
    assert!(error.to_string().contains(because), "{entries:?}: {error}");
}

fn linked_proc(world: &World) {
    let link = |name: &str| Entry::Link(name.to_owned(), "/tmp".to_owned());
    refused(world, &[link("proc")], "the image has /proc as a symbolic link");
    refused(world, &[link("sys")], "the image has /sys as a symbolic link");
    refused(world, &[Entry::File("proc".to_owned(), String::new())], "the image has /proc as something");
}

fn linked_dev(world: &World) {
    let victim = world.outside.join("victim");
    std::fs::create_dir(&victim).unwrap();
    std::fs::write(victim.join("ptmx"), "mine").unwrap();
    let link = |target: String| Entry::Link("dev".to_owned(), target);
    let up = format!("../../../../../../..{}", victim.display());
    refused(world, &[link(up)], "the image has /dev as a symbolic link");
    refused(world, &[link(victim.display().to_string())], "the image has /dev as a symbolic link");
    assert_eq!(std::fs::read_to_string(victim.join("ptmx")).unwrap(), "mine");
}

fn masks(world: &World) {
    let entries = [
        Entry::Directory("dev".to_owned()),
        Entry::Link("dev/null".to_owned(), "/proc/sys/kernel/core_pattern".to_owned()),
    ];
    let lowers = vec![world.layer(&entries), world.image.clone()];
    let masked = "/proc/interrupts /proc/kcore /proc/keys /proc/latency_stats /proc/sched_debug /proc/timer_list";
    let script = format!(
        "for f in {masked}; do if [ -e $f ]; then echo x > $f; head -c 10 $f | wc -c; fi; done; \
         ls /proc/acpi /proc/scsi /sys/firmware /sys/devices/virtual/powercap 2>/dev/null | grep -v : | tr -d '\\n'"
    );
    let went = world.run(&RunSpec { lowers, ..world.shell(&script) });
    assert_eq!(went.stdout.replace("0\n", ""), "", "{}", went.stderr);
    assert!(went.stdout.contains('0'), "nothing was masked at all");
}

fn terminal(world: &World) {
    // TIOCSTI and TIOCLINUX, also with a bit above the 32 that the kernel looks at (CVE-2019-10063).
    for request in [0x5412_i64, 0x541c, 0x1_0000_5412] {
        assert_eq!(errno(world, &[libc::SYS_ioctl, 0, request, 0]), libc::EPERM);
    }
    assert_eq!(errno(world, &[libc::SYS_ioctl, 0, 0x5401, 0]), libc::ENOTTY, "TCGETS passes the filter");
    assert_eq!(world.run(&world.shell("echo x > /dev/tty")).exit.status, Status::Code(1));
}

fn shim(world: &World) {
    for user in [UserSpec::default(), UserSpec { uid: 1000, gid: 1000, groups: Vec::new() }] {
        let script = "kill -9 1; for f in environ mem maps cwd root fd exe; do \
             if ls /proc/1/$f/ || cat /proc/1/$f; then echo read $f; fi; readlink /proc/1/$f; done; echo alive";
        let went = world.run(&RunSpec { user: user.clone(), ..world.shell(script) });
        assert_eq!(went.stdout, "alive\n", "{user:?}");
        let words = ["call", "101", "16902", "1", "0", "0"]; // ptrace(PTRACE_SEIZE, 1)
        if cfg!(target_arch = "x86_64") {
            let went = world.run(&RunSpec { user, ..inside::command(world, &words) });
            assert_eq!(went.stdout.trim(), libc::EPERM.to_string());
        }
    }
}

fn errno(world: &World, call: &[i64]) -> i32 {
    let words: Vec<String> = call.iter().map(i64::to_string).collect();
    let words: Vec<&str> = ["call"].into_iter().chain(words.iter().map(String::as_str)).collect();
    let went = world.run(&inside::command(world, &words));
    went.stdout.trim().parse().unwrap_or_else(|_| panic!("{call:?}: {went:?}"))
}

fn system_calls(world: &World) {
    let denied = [
        ("keyctl", libc::SYS_keyctl),
        ("add_key", libc::SYS_add_key),
        ("unshare", libc::SYS_unshare),
        ("setns", libc::SYS_setns),
        ("mount", libc::SYS_mount),
        ("umount2", libc::SYS_umount2),
        ("pivot_root", libc::SYS_pivot_root),
        ("fsopen", libc::SYS_fsopen),
        ("open_tree", libc::SYS_open_tree),
        ("bpf", libc::SYS_bpf),
        ("perf_event_open", libc::SYS_perf_event_open),
        ("io_uring_setup", libc::SYS_io_uring_setup),
        ("userfaultfd", libc::SYS_userfaultfd),
        ("open_by_handle_at", libc::SYS_open_by_handle_at),
        ("reboot", libc::SYS_reboot),
        ("init_module", libc::SYS_init_module),
        ("swapon", libc::SYS_swapon),
        ("syslog", libc::SYS_syslog),
    ];
    for (name, number) in denied {
        assert_eq!(errno(world, &[number]), libc::EPERM, "{name}");
    }
    for number in [libc::SYS_clone3, 470, 500, 1000, 1 << 20] {
        assert_eq!(errno(world, &[number]), libc::ENOSYS, "{number}");
    }
    for flag in [libc::CLONE_NEWUSER, libc::CLONE_NEWNS, libc::CLONE_NEWPID, libc::CLONE_NEWNET] {
        assert_eq!(errno(world, &[libc::SYS_clone, i64::from(flag)]), libc::EPERM, "{flag:x}");
    }
    for (family, expected) in [(38, libc::EPERM), (40, libc::EPERM), (1 << 32 | 38, libc::EPERM), (1, 0), (16, 0)] {
        assert_eq!(errno(world, &[libc::SYS_socket, family, 2, 0]), expected, "family {family}");
    }
    assert_eq!(errno(world, &[libc::SYS_personality, 0xffff_ffff]), 0);
    assert_eq!(errno(world, &[libc::SYS_personality, 0x004_0000]), libc::EPERM, "ADDR_NO_RANDOMIZE");
    assert_eq!(errno(world, &[libc::SYS_getppid]), 0);
    assert_eq!(world.run(&world.shell("unshare -U true || mount -t tmpfs x /tmp")).exit.status, Status::Code(1));
}

fn abstract_sockets(world: &World) {
    use std::os::linux::net::SocketAddrExt;
    let name = format!("rbuild-test-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let listener = std::os::unix::net::UnixListener::bind_addr(&address).unwrap();
    // Without namespaces there is the host's network only.
    let networks = [Network::Host, Network::None].into_iter().take(if world.in_chroot() { 1 } else { 2 });
    for network in networks {
        let went =
            world.run(&RunSpec { network: network.clone(), ..inside::command(world, &["connect-abstract", &name]) });
        assert!(!went.stdout.contains("connected"), "{network:?}: {}", went.stdout);
        assert!(!went.stdout.is_empty(), "{went:?}");
    }
    drop(listener);
}

fn loopback(world: &World) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            std::io::Write::write_all(&mut stream, b"the host\n").ok();
        }
    });
    let script =
        format!("for host in 127.0.0.1 127.1.2.3 169.254.169.254 10.0.2.2; do nc -w 2 $host {port} </dev/null; done");
    let ask = |network| world.run(&RunSpec { network, ..world.shell(&script) }).stdout;
    assert_eq!(ask(Network::None), "");
    // The host's network is shared unless another one is asked for, as the threat model says.
    let script = format!("nc -w 2 127.0.0.1 {port} </dev/null");
    assert_eq!(world.run(&world.shell(&script)).stdout, "the host\n");
}

fn mount_table(world: &World) {
    let table = world.say("cat /proc/self/mounts /proc/self/mountinfo");
    let host = world.outside.parent().unwrap().to_str().unwrap();
    if table.contains("userxattr") && table.contains("volatile") {
        assert!(!table.contains(host), "{table}");
    } else {
        // A copied root is a mount of its own directory, and the table has that one's name.
        let naming: Vec<&str> = table.lines().filter(|line| line.contains(host)).collect();
        assert!(naming.iter().all(|line| line.split(' ').nth(4) == Some("/")), "{table}");
    }
}

fn devices(world: &World) {
    let went = world.run(&world.shell("mknod /b b 8 0; mknod /c c 1 3; ls /dev/ | tr '\\n' ' '; ls /b /c"));
    let listed = "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero ";
    if world.in_chroot() {
        let is_known = |name| listed.split(' ').any(|known| known == name);
        assert!(went.stdout.contains("null") && went.stdout.split(' ').all(is_known), "{went:?}");
    } else {
        assert_eq!(went.stdout, listed);
    }
    assert_ne!(went.exit.status, Status::Code(0));
    assert_eq!(world.say("head -c 3 /dev/zero | wc -c; echo x > /dev/null; head -c 2 /dev/urandom | wc -c"), "3\n2\n");
}

fn shared_memory(world: &World) {
    let table = || std::fs::read_to_string("/proc/sysvipc/shm").unwrap();
    let before = table();
    // shmget(key, 4096, IPC_CREAT | 0600)
    assert_eq!(errno(world, &[libc::SYS_shmget, 0x7262_7569, 4096, 0o1600]), 0);
    assert_eq!(table(), before);
    world.say("echo x > /dev/shm/x; echo x > /dev/mqueue/x || true");
    assert_eq!(world.say("ls /dev/shm /dev/mqueue"), "/dev/mqueue:\n\n/dev/shm:\n");
}

fn core_files(world: &World) {
    let spec = inside::command(world, &["crash"]);
    assert_eq!(world.run(&spec).exit.status, Status::Signal(libc::SIGABRT));
    assert_eq!(world.tree(&spec.upper), "");
}

fn settings(world: &World) {
    let before = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    for script in [
        "hostname x",
        "echo x > /proc/sys/kernel/hostname",
        "echo x > /proc/sys/kernel/core_pattern",
        "echo h > /proc/sysrq-trigger",
        "echo x > /sys/kernel/uevent_helper",
        "echo 1 > /proc/irq/default_smp_affinity",
    ] {
        let went = world.run(&world.shell(script));
        assert_ne!(went.exit.status, Status::Code(0), "{script} worked");
    }
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap(), before);
}

fn stub_deletion(world: &World) {
    use rbuild::sandbox::{Access, MountKind};
    std::fs::write(world.outside.join("canary"), "alive").unwrap();
    let kind = MountKind::Bind { source_root: world.outside.clone(), source: Vec::new(), access: Access::ReadOnly };
    let target = format!("/a{}", world.outside.display());
    let script = format!("rm -rf /a; mv /a /b; ln -s / /a; cat {target}/canary");
    let spec = RunSpec { mounts: vec![crate::world::mount(&target, kind)], ..world.shell(&script) };
    world.run(&spec);
    assert_eq!(std::fs::read_to_string(world.outside.join("canary")).unwrap(), "alive");
}
