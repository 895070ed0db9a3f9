//! `mesh-agent init` itself: what it captures, what it leaves alone, and that it fails where it must.

use super::network::{Network, run};
use super::{APPLICATION, PROXY};

#[test]
fn rules_are_replaced_as_a_whole_and_others_are_left_alone() {
    let network = Network::new();
    let pod = &network.pod;
    run(&format!("ip netns exec {pod} nft add table inet other"));
    network.init(pod, &["--exclude-inbound-ports", "22", "--exclude-outbound-cidrs", "10.1.0.0/16,10.1.2.0/24,0.0.0.0/0"]).expect("first");
    assert!(network.ruleset(pod).contains("tcp dport { 22, 15315, 15320 } return"), "{}", network.ruleset(pod));
    network.init(pod, &[]).expect("again");
    network.init(pod, &[]).expect("and again");
    let rules = network.ruleset(pod);
    assert!(rules.contains("table inet other") && !rules.contains("22,") && !rules.contains("10.1."), "{rules}");
    assert_eq!((rules.matches("table inet selvage").count(), rules.matches("redirect to :15301").count()), (1, 1), "{rules}");
}

#[test]
fn what_is_excluded_is_not_captured_and_only_that() {
    let network = Network::new();
    let (pod, outside) = (&network.pod, &network.outside);
    let options =
        ["--exclude-inbound-ports", "8081", "--exclude-outbound-ports", "9001", "--exclude-outbound-cidrs", "10.77.0.4/32,fd77::3"];
    network.init(pod, &options).expect("captured");
    // A port that only root may have.
    let _dns = network.start(outside, 0, &["application", "10.77.0.3:53"], "");
    let _inside = ["8080", "8081", "15315", "15320"].map(|port| network.application(pod, &format!("10.77.0.2:{port}")));
    let _outside = ["10.77.0.3:9000", "10.77.0.3:9001", "[fd77::3]:9000"].map(|address| network.application(outside, address));
    let _peer = network.application(&network.peer, "10.77.0.4:9000");
    let _datagrams = [
        network.start(outside, APPLICATION, &["echo", "10.77.0.3:9000"], ""),
        network.start(pod, APPLICATION, &["echo", "10.77.0.2:8080"], ""),
    ];
    // No proxy runs: what is captured finds nobody, what is not arrives.
    network.closed(outside, "10.77.0.2:8080");
    network.closed(pod, "10.77.0.3:9000");
    for port in ["8081", "15315", "15320"] {
        network.through(outside, &format!("10.77.0.2:{port}"), "x", "/excluded");
    }
    for address in ["10.77.0.3:9001", "10.77.0.4:9000", "[fd77::3]:9000"] {
        network.through(pod, address, "x", "/excluded");
    }
    // DNS over TCP, and what is no TCP at all.
    network.through(pod, "10.77.0.3:53", "x", "/dns");
    assert_eq!((network.datagram(pod, "10.77.0.3:9000"), network.datagram(outside, "10.77.0.2:8080")), ("echo".into(), "echo".into()));
    // The pod's own addresses.
    network.through(pod, "10.77.0.2:8080", "x", "/own");
}

#[test]
fn whatever_goes_wrong_the_pod_does_not_start() {
    let network = Network::new();
    let pod = network.pod.clone();
    let says = |outcome: Result<(), String>, words: &[&str]| {
        let said = outcome.expect_err("it must fail");
        assert!(said.starts_with("Some(1)") && words.iter().all(|word| said.contains(word)), "{words:?} are not in: {said}");
    };
    let netns = format!("--net=/run/netns/{pod}");
    // Without the capability.
    says(
        network.init_by(&["nsenter", &netns, "setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin", "--"], &[]),
        &["NET_ADMIN"],
    );
    says(network.init_by(&["nsenter", &netns, "--setgid=3000", "--setuid=3000", "--"], &[]), &["NET_ADMIN"]);
    // As the proxy, whose connections are not captured.
    says(network.init_by(&["nsenter", &netns, &format!("--setgid={PROXY}"), "--"], &[]), &["2173", "runAsGroup"]);
    says(network.init(&pod, &["--nft", "/no/such/nft"]), &["/no/such/nft", "nftables"]);
    // One that only says it did.
    let liar = network.write("liar", "#!/bin/sh\ncat > /dev/null\n");
    says(network.init(&pod, &["--nft", &liar]), &["kernel lists"]);
    // One that lists what it never loaded.
    let parrot = network.write("parrot", "#!/bin/sh\n[ \"$1\" = -f ] && exec cat > \"$0.rules\"\ncat \"$0.rules\"\n");
    says(network.init(&pod, &["--nft", &parrot]), &["was not captured", "192.0.2.1"]);
    assert!(!network.ruleset(&pod).contains("selvage"), "{}", network.ruleset(&pod));
    // The port is taken by something that is no proxy of ours.
    let squatter = network.application(&pod, "0.0.0.0:15301");
    says(network.init(&pod, &[]), &["15301"]);
    drop(squatter);
    network.init(&pod, &[]).expect("and now it works");
    let wrong = network.init(&pod, &["--exclude-outbound-ports", "http"]).expect_err("it must fail");
    assert!(wrong.starts_with("Some(2)") && wrong.contains("`http` is no port"), "{wrong}");
}

#[test]
fn without_a_route_there_is_nothing_to_prove_it_with() {
    let network = Network::new();
    let pod = &network.pod;
    run(&format!("ip -n {pod} route del default"));
    run(&format!("ip -n {pod} -6 route del default"));
    let said = network.init(pod, &[]).expect_err("it must fail");
    assert!(said.contains("no route"), "{said}");
    // One family is enough.
    run(&format!("ip -n {pod} route add default via fd77::3"));
    network.init(pod, &[]).expect("IPv6 alone");
    network.init(pod, &["--exclude-outbound-cidrs", "0.0.0.0/0,::/0"]).expect("nothing is to be captured, as asked");
}
