use super::nft::compare;
use super::rules::rules;
use super::*;

fn exclusions(inbound: &str, outbound: &str, cidrs: &str) -> Exclusions {
    Exclusions {
        inbound_ports: inbound.parse().unwrap(),
        outbound_ports: outbound.parse().unwrap(),
        outbound_cidrs: cidrs.parse().unwrap(),
    }
}

#[test]
fn lists_are_read_and_a_bad_entry_is_named() {
    for empty in ["", " ", ",", " , "] {
        assert_eq!((empty.parse(), empty.parse()), (Ok(Ports::default()), Ok(Cidrs::default())), "{empty:?}");
    }
    assert_eq!(" 22, 8081,22".parse::<Ports>(), "8081,22".parse());
    for bad in ["0", "65536", "http", "-1", "1;2", "22,x"] {
        let Err(InvalidExclusion::Port(entry)) = bad.parse::<Ports>() else { panic!("{bad} is taken") };
        assert!(bad.contains(&entry));
    }
    for bad in ["10.0.0.0/33", "10.0.0", "example.com", "::/129", "10.0.0.0/8 accept"] {
        assert!(matches!(bad.parse::<Cidrs>(), Err(InvalidExclusion::Cidr(_))), "{bad} is taken");
    }
    let many = (1..=300).map(|port| port.to_string()).collect::<Vec<_>>().join(",");
    assert_eq!(many.parse::<Ports>(), Err(InvalidExclusion::TooMany));
}

#[test]
fn the_rules_hold_what_is_excluded_and_nothing_else() {
    let text = rules(&exclusions("22", "9000,3306", "10.1.2.3/8,10.2.0.0/16,fd00::/8,0.0.0.0/0"));
    let has = |line: &str| text.lines().any(|found| found == line);
    assert!(text.starts_with("table inet selvage { }\ndelete table inet selvage\n"), "{text}");
    for line in [
        "tcp dport { 22, 15315, 15320 } return",
        "tcp dport { 53, 3306, 9000 } return",
        "ip6 daddr fd00::/8 return",
        "meta nfproto ipv4 return",
        "meta skuid 2173 return",
        "meta skgid 2173 return",
        "meta l4proto tcp redirect to :15306",
        "meta l4proto tcp redirect to :15301",
    ] {
        assert!(has(line), "{line} is not in\n{text}");
    }
    // What touches is one, or nft would refuse it; and nothing of it can be more than a list of numbers.
    assert!(!text.contains("10."), "{text}");
    let plain = rules(&Exclusions::default());
    for line in ["tcp dport { 15315, 15320 } return", "tcp dport { 53 } return"] {
        assert!(plain.lines().any(|found| found == line), "{line} is not in\n{plain}");
    }
}

#[test]
fn a_listing_that_lacks_what_captures_is_refused() {
    let sent = rules(&Exclusions::default());
    // As nft 1.0.6 writes it.
    let listed = "table inet selvage {
	chain inbound {
		type nat hook prerouting priority -100; policy accept;
		meta l4proto != 6 return
		iifname \"lo\" return
		tcp dport { 15315, 15320 } return
		meta l4proto 6 redirect to :15306
	}

	chain outbound {
		type nat hook output priority -100; policy accept;
		meta l4proto != 6 return
		ip daddr 127.0.0.0/8 return
		ip6 daddr ::1 return
		oifname \"lo\" meta skuid 2173 meta priority 0:4 meta l4proto 6 redirect to :15306
		meta skuid 2173 return
		meta skgid 2173 return
		oifname \"lo\" return
		tcp dport 53 return
		meta l4proto 6 redirect to :15301
	}
}
";
    assert!(compare(&sent, listed).is_ok());
    for (from, to) in [
        ("redirect to :15301", "accept"),
        ("meta l4proto 6 redirect to :15306\n\t}", "}"),
        ("hook output", "hook postrouting"),
        ("\t\tmeta skuid 2173 return\n", ""),
        ("tcp dport 53 return", "tcp dport 53 return\n\t\ttcp dport 80 return"),
    ] {
        assert!(compare(&sent, &listed.replacen(from, to, 1)).is_err(), "{from} -> {to} is taken");
    }
    assert!(compare(&sent, "").is_err());
}
