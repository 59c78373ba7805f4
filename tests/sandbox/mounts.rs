//! Each kind of mount, and that none of them leaves a trace in the layer.

use std::os::unix::fs::PermissionsExt;

use rbuild::sandbox::{Access, Mount, MountKind, RunSpec, Secret, Status};

use crate::Case;
use crate::world::{Entry, World, mount};

pub const CASES: &[Case] = &[
    ("hosts and resolv.conf are the given ones and read-only", generated_files),
    ("bind: read-only, read-write, a file, a path within", bind),
    ("D2 D3: a bind source cannot leave its root", bind_escape),
    ("a stage is seen merged, changes to it are thrown away", stage),
    ("a cache keeps its content", cache),
    ("tmpfs has its size and mode", tmpfs),
    ("K1: a secret is in memory only, with its mode and owner", secret),
    ("a socket of the host can be connected to", socket),
    ("mounts within mounts, in any order", nested),
    ("mount points follow the image's links", linked_targets),
    ("nothing can be mounted over /, /proc and /sys", forbidden_targets),
    ("a directory over a file is refused in words", wrong_shape),
    ("nothing of the mounts leaks into the layer", no_leak),
];

fn bind_mount(world: &World, target: &str, source: &str, access: Access) -> Mount {
    let kind = MountKind::Bind { source_root: world.outside.clone(), source: source.as_bytes().to_vec(), access };
    mount(target, kind)
}

fn generated_files(world: &World) {
    assert_eq!(world.say("cat /etc/hosts /etc/resolv.conf"), "127.0.0.1 localhost\nnameserver 192.0.2.1\n");
    assert_eq!(world.run(&world.shell("echo x > /etc/hosts")).exit.status, Status::Code(1));
}

fn bind(world: &World) {
    let directory = world.outside.join("bound");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("file"), "content").unwrap();
    std::fs::set_permissions(directory.join("file"), PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o700)).unwrap();
    // Container root reads what only its owner may, also where that is the host's root.
    let script = "cat /mnt/file; cat /one; stat -c %u /one; touch /mnt/new 2>&1 | grep -c Read-only";
    let mounts = vec![
        bind_mount(world, "/mnt", "bound", Access::ReadOnly),
        bind_mount(world, "/one", "bound/file", Access::ReadOnly),
    ];
    assert_eq!(world.say_with(script, mounts), "contentcontent0\n1\n");
    let (uid, gid) = world.sandbox.owner();
    std::os::unix::fs::chown(&directory, Some(uid), Some(gid)).unwrap();
    world.say_with("echo more > /mnt/new", vec![bind_mount(world, "/mnt", "/bound", Access::ReadWrite)]);
    assert_eq!(std::fs::read_to_string(directory.join("new")).unwrap(), "more\n");
}

fn bind_escape(world: &World) {
    let root = world.outside.join("jail");
    std::fs::create_dir_all(root.join("etc")).unwrap();
    std::fs::write(root.join("etc/passwd"), "jailed").unwrap();
    std::os::unix::fs::symlink("/etc", root.join("absolute")).unwrap();
    std::os::unix::fs::symlink("../../../../../../etc", root.join("relative")).unwrap();
    for source in ["absolute/passwd", "relative/passwd", "../../../../etc/passwd", "/etc/passwd"] {
        let kind =
            MountKind::Bind { source_root: root.clone(), source: source.as_bytes().to_vec(), access: Access::ReadOnly };
        assert_eq!(world.say_with("cat /x", vec![mount("/x", kind)]), "jailed", "{source}");
    }
}

fn stage(world: &World) {
    let file = |name: &str, content: &str| Entry::File(name.to_owned(), content.to_owned());
    let link = Entry::Link("d/up".to_owned(), "../../../root-file".to_owned());
    let top = world.layer(&[Entry::Directory("d".to_owned()), file("d/top", "top"), link]);
    let bottom = world.layer(&[Entry::Directory("d".to_owned()), file("d/bottom", "bottom"), file("root-file", "own")]);
    let kind = |lowers: &[_], source: &str, access| MountKind::BindOverlay {
        lowers: lowers.to_vec(),
        source: source.as_bytes().to_vec(),
        access,
    };
    let both = [top.clone(), bottom.clone()];
    let read =
        |source: &str, script: &str| world.say_with(script, vec![mount("/m", kind(&both, source, Access::ReadOnly))]);
    assert_eq!(read("d", "cat /m/top /m/bottom"), "topbottom");
    assert_eq!(read("d/up", "cat /m"), "own", "a link leads within the stage");
    assert_eq!(read("", "cat /m/d/top; touch /m/x 2>/dev/null || echo no"), "topno\n");
    let before = world.tree(&top);
    let writable = vec![mount("/m", kind(&both, "d", Access::ReadWrite))];
    assert_eq!(world.say_with("echo x > /m/top; rm /m/bottom; ls /m", writable), "top\nup\n");
    assert_eq!(world.tree(&top), before);
    let one = vec![mount("/m", kind(&both[..1], "d/top", Access::ReadOnly))];
    assert_eq!(world.say_with("cat /m", one), "top");
    for access in [Access::ReadOnly, Access::ReadWrite] {
        assert_eq!(world.say_with("ls /m", vec![mount("/m", kind(&[], "", access))]), "", "FROM scratch");
    }
}

fn cache(world: &World) {
    let dir = world.base.join("caches/one");
    let mounts = |access| vec![mount("/var/cache/x", MountKind::Cache { dir: dir.clone(), access })];
    world.say_with("echo kept > /var/cache/x/f", mounts(Access::ReadWrite));
    assert_eq!(world.say_with("cat /var/cache/x/f", mounts(Access::ReadOnly)), "kept\n");
    let spec = RunSpec { mounts: mounts(Access::ReadOnly), ..world.shell("echo x > /var/cache/x/f") };
    assert_eq!(world.run(&spec).exit.status, Status::Code(1));
}

fn tmpfs(world: &World) {
    let mounts = vec![mount("/t", MountKind::Tmpfs { size: Some(1 << 20), mode: 0o1750 })];
    let script = "stat -c %a /t; dd if=/dev/zero of=/t/x bs=65536 count=100 2>&1 | grep -c 'No space'; \
         stat -c %s /t/x";
    assert_eq!(world.say_with(script, mounts), "1750\n1\n1048576\n");
    assert_eq!(world.say("stat -c %a /dev/shm; df -m /dev/shm | awk 'NR==2{print $2}'"), "1777\n64\n");
}

fn secret(world: &World) {
    let content = Secret(b"very secret\0bytes".to_vec());
    assert_eq!(format!("{content:?}"), "Secret(17 bytes)");
    let mounts = vec![mount("/run/secrets/s", MountKind::File { content, mode: 0o440, uid: 7, gid: 65535 })];
    let script = "stat -c '%a %u %g' /run/secrets/s; wc -c < /run/secrets/s; grep -c /run/secrets/s /proc/mounts; \
         stat -f -c %T /run/secrets/s; echo x > /run/secrets/s || echo no";
    let spec = RunSpec { mounts, ..world.shell(script) };
    let went = world.run(&spec);
    assert_eq!(went.stdout, "440 7 65535\n17\n1\ntmpfs\nno\n", "{}", went.stderr);
    assert_eq!(world.tree(&spec.upper), "");
    assert!(!world.tree(&spec.work).contains(" 17\n"), "the secret is on disk");
}

fn socket(world: &World) {
    let path = world.outside.join("agent");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    let answer = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::io::Write::write_all(&mut stream, b"hello").unwrap();
    });
    let spec = RunSpec {
        mounts: vec![mount("/run/agent.sock", MountKind::Socket { path, owner: None })],
        ..crate::inside::command(world, &["connect", "/run/agent.sock"])
    };
    let went = world.run(&spec);
    assert_eq!(went.stdout, "hello\n", "{}", went.stderr);
    answer.join().unwrap();
}

fn nested(world: &World) {
    std::fs::create_dir_all(world.outside.join("parent/existing")).unwrap();
    let mounts = vec![
        mount("/t/a/b", MountKind::File { content: Secret(b"deep".to_vec()), mode: 0o444, uid: 0, gid: 0 }),
        mount("/t", MountKind::Tmpfs { size: None, mode: 0o755 }),
        mount("/p/existing", MountKind::Tmpfs { size: None, mode: 0o755 }),
        bind_mount(world, "/p", "parent", Access::ReadOnly),
    ];
    assert_eq!(world.say_with("cat /t/a/b; ls /t; touch /p/existing/x; ls -A /p", mounts), "deepa\nexisting\n");
    assert!(!world.outside.join("parent/existing/x").exists());
}

fn linked_targets(world: &World) {
    let link = |name: &str, target: &str| Entry::Link(name.to_owned(), target.to_owned());
    let directory = |name: &str| Entry::Directory(name.to_owned());
    let entries = [
        directory("run"),
        directory("var"),
        link("var/run", "/run"),
        directory("etc"),
        link("etc/resolv.conf", "../run/systemd/resolve/stub.conf"),
        link("out", "../../../../tmp/../etc"),
    ];
    let lowers = vec![world.layer(&entries), world.image.clone()];
    let file = |content: &[u8]| MountKind::File { content: Secret(content.to_vec()), mode: 0o444, uid: 0, gid: 0 };
    let mounts = vec![mount("/var/run/secrets/a", file(b"A")), mount("/out/b", file(b"B"))];
    let script = "cat /run/secrets/a /etc/b /run/systemd/resolve/stub.conf /etc/resolv.conf";
    let spec = RunSpec { lowers, mounts, ..world.shell(script) };
    let went = world.run(&spec);
    assert_eq!(went.stdout, "ABnameserver 192.0.2.1\nnameserver 192.0.2.1\n", "{}", went.stderr);
    assert_eq!(world.tree(&spec.upper), "");
}

fn forbidden_targets(world: &World) {
    let link = Entry::Link("p".to_owned(), "/proc".to_owned());
    let lowers = vec![world.layer(&[link]), world.image.clone()];
    for target in ["/", "/..", "/proc", "/proc/keys", "/sys/kernel", "/p/keys", "/proc/1/fd"] {
        let mounts = vec![mount(target, MountKind::Tmpfs { size: None, mode: 0o755 })];
        let spec = RunSpec { lowers: lowers.clone(), mounts, ..world.shell("true") };
        let error = world.try_run(&spec).expect_err(target).to_string();
        assert!(error.contains("nothing can be mounted over"), "{target}: {error}");
    }
}

fn wrong_shape(world: &World) {
    let tmpfs = vec![mount("/bin/sh", MountKind::Tmpfs { size: None, mode: 0o755 })];
    let error = world.try_run(&RunSpec { mounts: tmpfs, ..world.shell("true") }).unwrap_err().to_string();
    assert!(error.contains("is no directory in the image"), "{error}");
    let file = MountKind::File { content: Secret(Vec::new()), mode: 0o444, uid: 0, gid: 0 };
    let spec = RunSpec { mounts: vec![mount("/bin", file)], ..world.shell("true") };
    assert!(world.try_run(&spec).unwrap_err().to_string().contains("is a directory in the image"));
}

fn no_leak(world: &World) {
    std::fs::write(world.outside.join("leak"), "").unwrap();
    let file = MountKind::File { content: Secret(b"s".to_vec()), mode: 0o400, uid: 0, gid: 0 };
    let merged =
        MountKind::BindOverlay { lowers: vec![world.image.clone()], source: Vec::new(), access: Access::ReadWrite };
    let cache = MountKind::Cache { dir: world.base.join("caches/leak"), access: Access::ReadWrite };
    let mounts = vec![
        mount("/run/secrets/new", file),
        mount("/stage/here", merged),
        mount("/root/.cache/deep/er", cache),
        mount("/tmp/t", MountKind::Tmpfs { size: None, mode: 0o755 }),
        bind_mount(world, "/etc/leak.conf", "leak", Access::ReadOnly),
        bind_mount(world, "/bin/inside", "leak", Access::ReadOnly),
    ];
    let times = "stat -c '%Y %y %a %u %n' / /etc /bin /tmp /root";
    let without = world.say(times);
    let spec = RunSpec { mounts, ..world.shell(times) };
    let went = world.run(&spec);
    assert_eq!(went.stdout, without, "{}", went.stderr);
    assert_eq!(world.tree(&spec.upper), "");
}
