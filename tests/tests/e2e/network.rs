//! The network modes of a policy: what each gives, and what none of them does.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use fumehood_tests::{Ended, House};

use super::for_both;

/// A policy with this network and everything it takes to execute a program.
fn policy(house: &House, network: &str, required: &str) -> String {
    let text = format!(
        "version = 1\nname = \"network\"\n[filesystem]\nexecute = [\"/usr\", \"/bin\", \"/lib\", \"/lib64\", \"/etc\"]\n\
         workspace = \"write\"\ntmp = true\n[environment]\npass = [\"PATH\"]\n[network]\n{network}\n\
         [protections]\nrequired = [{required}]\n"
    );
    house.write("network.toml", text).display().to_string()
}

fn python(house: &House, policy: &str, script: &str) -> Ended {
    house
        .run_with(&["--policy", policy], &["python3", "-c", script])
        .finish()
}

/// Says for each address whether a connection comes about, or with which error it does not.
fn connect(addresses: &[(&str, u16)]) -> String {
    let list: Vec<_> = addresses
        .iter()
        .map(|(host, port)| format!("('{host}', {port})"))
        .collect();
    format!(
        "import socket, errno\nfor host, port in [{}]:\n s = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET)\n \
         s.settimeout(5)\n r = s.connect_ex((host, port))\n print(errno.errorcode.get(r, 'connected'))\n",
        list.join(", ")
    )
}

#[test]
fn none_has_no_loopback_either() {
    for_both(|house| {
        let policy = policy(house, "mode = \"none\"", "\"network\"");
        let ended = python(
            house,
            &policy,
            &connect(&[("127.0.0.1", 80), ("::1", 80), ("192.0.2.1", 80)]),
        );
        ended.expect(0);
        for line in ended.out().lines() {
            assert!(["ENETUNREACH", "EADDRNOTAVAIL"].contains(&line), "{}", ended.out());
        }
        assert_eq!(ended.out().lines().count(), 3);
    });
}

#[test]
fn loopback_is_the_sandboxs_own() {
    for_both(|house| {
        let outside = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = outside.local_addr().unwrap().port();
        let ended = python(
            house,
            &policy(house, "mode = \"loopback-silent\"", "\"network\""),
            &format!(
                "{}l = socket.socket(); l.bind(('127.0.0.1', 0)); l.listen()\n\
                 print(socket.socket().connect_ex(l.getsockname()))\n",
                connect(&[("127.0.0.1", port), ("0.0.0.0", port), ("192.0.2.1", port)])
            ),
        );
        ended.expect(0);
        assert_eq!(ended.out(), "ECONNREFUSED\nECONNREFUSED\nENETUNREACH\n0\n");
    });
}

#[test]
fn the_machines_network_is_given_in_so_many_words_only() {
    for_both(|house| {
        let outside = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = outside.local_addr().unwrap().port();
        let script = connect(&[("127.0.0.1", port)]);

        let required = policy(house, "mode = \"host-without-isolation\"", "\"network\"");
        let ended = python(house, &required, &script);
        assert_ne!(ended.code(), 0);
        assert!(ended.err().contains("gives it up"), "{}", ended.err());

        let meant = policy(house, "mode = \"host-without-isolation\"", "\"processes\"");
        let ended = python(house, &meant, &script);
        ended.expect(0);
        assert_eq!(ended.out(), "connected\n");
    });
}

#[test]
fn ports_of_the_machines_network_can_be_chosen() {
    if fumehood_sandbox::landlock_abi() < 4 {
        fumehood_tests::not_run(
            "ports_of_the_machines_network_can_be_chosen",
            "Landlock knows no ports here",
        );
        return;
    }
    for_both(|house| {
        let (one, other) = (listener(), listener());
        let network = format!(
            "mode = \"host-without-isolation\"\ntcp-connect = [{}]\ntcp-bind = []",
            one.1
        );
        let policy = policy(house, &network, "\"processes\"");
        let script = format!(
            "{}try:\n socket.socket().bind(('127.0.0.1', 0))\nexcept OSError as e: print(errno.errorcode[e.errno])\n\
             try:\n s = socket.socket(); s.sendto(b'x', socket.MSG_FASTOPEN, ('127.0.0.1', {})); print('sent')\n\
             except OSError as e: print(errno.errorcode[e.errno])\n",
            connect(&[("127.0.0.1", one.1), ("127.0.0.1", other.1)]),
            other.1
        );
        let ended = python(house, &policy, &script);
        ended.expect(0);
        assert_eq!(ended.out(), "connected\nEACCES\nEACCES\nENOTSUP\n");
        // Each is explained, and what was let through is not.
        let failing = format!("{script}raise SystemExit(1)");
        let err = python(house, &policy, &failing).err();
        let (one, other) = (one.1, other.1);
        for line in [
            format!("denied: connect to 127.0.0.1:{other} (network: network.tcp-connect does not list the port)"),
            format!("allowed by: network.tcp-connect with {other} in the policy"),
            "denied: listen on 127.0.0.1:0 (network: network.tcp-bind does not list the port)".to_owned(),
        ] {
            assert!(err.contains(&line), "{line}\n{err}");
        }
        assert!(!err.contains(&format!("127.0.0.1:{one}")), "{err}");
    });
}

#[test]
fn abstract_sockets_of_the_machine_are_out_of_reach_with_every_network() {
    if fumehood_sandbox::landlock_abi() < 6 {
        fumehood_tests::not_run("abstract_sockets_of_the_machine", "Landlock has no scopes here");
        return;
    }
    for_both(|house| {
        let name = format!("fumehood-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let Ok(_outside) = UnixListener::bind_addr(&address) else {
            return;
        };
        for network in ["mode = \"loopback\"", "mode = \"host-without-isolation\""] {
            let policy = policy(house, network, "\"processes\"");
            let script = format!(
                "import socket\ntry:\n socket.socket(socket.AF_UNIX).connect('\\0{name}'); print('reached')\n\
                 except OSError as e: print('refused', e.errno)\n"
            );
            let ended = python(house, &policy, &script);
            ended.expect(0);
            assert!(ended.out().starts_with("refused"), "{network}: {}", ended.out());
        }
    });
}

fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}
