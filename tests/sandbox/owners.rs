//! Owners of files and ids of processes: the same whether the kernel keeps them or the recorder does.

use rbuild::sandbox::{RunSpec, Status, UserSpec};

use crate::Case;
use crate::world::World;

pub const CASES: &[Case] = &[
    ("owners: chown, links, pipes, groups handed down", chowned),
    ("owners: what a user makes is the user's", made_by_a_user),
    ("owners: they outlive the command, and a rename", outlive),
    ("owners: chown takes setuid and setgid away", bits_are_cleared),
    ("owners: a user changes no owners", users_change_nothing),
];

fn chowned(world: &World) {
    let spec = world.shell(
        "mkdir /a; chown 1000:50 /a; chmod 2775 /a; touch /a/f; mkdir /a/d; ln -s x /a/l; chown -h 7:8 /a/l; \
         mknod /a/p p; chown 9:10 /a/p; cd /a; chown 3 f; stat -c '%n %u:%g' . f d l p",
    );
    let went = world.run(&spec);
    assert_eq!(went.stdout, ". 1000:50\nf 3:50\nd 0:50\nl 7:8\np 9:10\n", "{}", went.stderr);
    let tree = world.tree(&spec.upper);
    for line in ["a 42775 1000:50", "a/f 100644 3:50", "a/d 42755 0:50", "a/l 120777 7:8", "a/p 10644 9:10"] {
        assert!(tree.contains(line), "{line} in {tree}");
    }
}

fn made_by_a_user(world: &World) {
    let user = UserSpec { uid: 1000, gid: 1001, groups: Vec::new() };
    let script = "cd /tmp; umask 027; touch f; mkdir d; ln -s x l; mknod p p; echo x > d/g; touch /root/no; \
                  stat -c '%n %u:%g %a' f d l p d/g; id -u";
    let spec = RunSpec { user, ..world.shell(script) };
    let went = world.run(&spec);
    let expected = "f 1000:1001 640\nd 1000:1001 750\nl 1000:1001 777\np 1000:1001 640\nd/g 1000:1001 640\n1000\n";
    assert_eq!(went.stdout, expected, "{}", went.stderr);
    assert!(went.stderr.contains("Permission denied"), "made a file in root's directory: {}", went.stderr);
    assert!(world.tree(&spec.upper).contains("tmp/d/g 100640 1000:1001 2\n"), "{}", world.tree(&spec.upper));
}

fn outlive(world: &World) {
    let first = world.shell("mkdir /a; touch /a/f; ln -s x /a/l; chown -h 5:6 /a/f /a/l");
    assert_eq!(world.run(&first).exit.status, Status::Code(0));
    let lowers = vec![first.upper.clone(), world.image.clone()];
    let script = "cd /a; stat -c '%n %u:%g' f l; mv f g; mv l m; stat -c '%n %u:%g' g m";
    let second = RunSpec { lowers, ..world.shell(script) };
    let went = world.run(&second);
    assert_eq!(went.stdout, "f 5:6\nl 5:6\ng 5:6\nm 5:6\n", "{}", went.stderr);
    let tree = world.tree(&second.upper);
    assert!(tree.contains("a/g 100644 5:6 0\n") && tree.contains("a/m 120777 5:6 1\n"), "{tree}");
}

fn bits_are_cleared(world: &World) {
    let said = world.say("touch /tmp/f; chmod 6755 /tmp/f; chown 4:5 /tmp/f; stat -c '%a %u:%g' /tmp/f");
    assert_eq!(said, "755 4:5\n");
}

fn users_change_nothing(world: &World) {
    let user = UserSpec { uid: 1000, gid: 1000, groups: vec![44] };
    let script = "cd /tmp; touch f; chown 0 f; chown 1:1 /bin; chown :44 f; stat -c %u:%g f /bin";
    let went = world.run(&RunSpec { user, ..world.shell(script) });
    assert_eq!(went.stdout, "1000:44\n0:0\n", "{}", went.stderr);
    assert_eq!(went.stderr.lines().count(), 2, "{}", went.stderr);
}
