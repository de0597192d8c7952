package mbus

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

var (
	schemeForm = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*$`)
	hostForm   = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)
	// begins is the place where an URI begins in a list of them.
	begins = regexp.MustCompile(`(?:^|[,\s])\s*([A-Za-z][A-Za-z0-9+.-]*://)`)
)

// uri is one URI in a value.
type uri struct {
	text       string
	start, end int // of text in the value
	scheme     string
	userinfo   string // as it stands, with its "@"
	host, port string // host of an IPv6 address without brackets
	tail       string // from the "/" on, if any
}

// split finds the URIs of a value: one, or several with commas or white space
// between them. Unencoded passwords of the wildest kind are read as what they
// were meant to be, since all that follows is to replace them.
func split(value string) ([]uri, error) {
	matches := begins.FindAllStringSubmatchIndex(value, -1)
	if len(matches) == 0 || strings.TrimSpace(value[:matches[0][2]]) != "" {
		return nil, errors.New("its value is no URI such as nats://user:password@host:4222")
	}
	var out []uri
	for i, m := range matches {
		end := len(value)
		if i+1 < len(matches) {
			end = matches[i+1][2]
		}
		text := strings.TrimRight(value[m[2]:end], ", \t\r\n\u0085\u2028\u2029")
		u, err := read(text)
		if err != nil {
			return nil, err
		}
		u.start, u.end = m[2], m[2]+len(text)
		out = append(out, u)
	}
	return out, nil
}

func read(text string) (uri, error) {
	u := uri{text: text}
	scheme, rest, _ := strings.Cut(text, "://")
	u.scheme = scheme
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		u.userinfo, rest = rest[:at+1], rest[at+1:]
	}
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		rest, u.tail = rest[:i], rest[i:]
	}
	u.host = rest
	if i := strings.LastIndexByte(rest, ':'); i >= 0 && i > strings.LastIndexByte(rest, ']') {
		u.host, u.port = rest[:i], rest[i+1:]
	}
	u.host = strings.TrimSuffix(strings.TrimPrefix(u.host, "["), "]")
	if strings.ContainsAny(text, " \t\r\n\u0085\u2028\u2029") || strings.Contains(rest, ",") {
		return u, errors.New("its value is no URI such as nats://user:password@host:4222, nor a list of them: each needs its scheme")
	}
	return u, nil
}

// String puts the URI together.
func (u uri) String() string {
	host := u.host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if u.port != "" {
		host += ":" + u.port
	}
	return u.scheme + "://" + u.userinfo + host + u.tail
}

// redacted are URIs without what is secret in them.
func redacted(uris []uri) string {
	out := make([]string, len(uris))
	for i, u := range uris {
		if user, _, found := strings.Cut(u.userinfo, ":"); found {
			u.userinfo = user + ":***@"
		} else if u.userinfo != "" { // a token is a secret too
			u.userinfo = "***@"
		}
		// What follows the host is none of ours and may hold anything.
		if u.tail != "" && u.tail != "/" {
			u.tail = "/..."
		}
		out[i] = u.String()
	}
	return strings.Join(out, ", ")
}

// server is one of Settings.Servers.
type server struct{ host, port string }

func (s Settings) servers() ([]server, error) {
	if len(s.Servers) == 0 {
		return nil, errors.New("no server of the bus is given")
	}
	if s.Scheme != "" && !schemeForm.MatchString(s.Scheme) {
		return nil, fmt.Errorf("%q is no scheme of a URI", s.Scheme)
	}
	var out []server
	for _, text := range s.Servers {
		x := server{host: text}
		if a, err := netip.ParseAddr(text); err != nil || a.Zone() != "" {
			if strings.Contains(text, ":") {
				if x.host, x.port, err = net.SplitHostPort(text); err != nil {
					return nil, fmt.Errorf("%q is not a server: it must be host:port", text)
				}
				if n, err := strconv.ParseUint(x.port, 10, 16); err != nil || n == 0 {
					return nil, fmt.Errorf("%q is not a server: its port is not a number between 1 and 65535", text)
				}
			}
			a, err := netip.ParseAddr(x.host)
			if !hostForm.MatchString(x.host) && (err != nil || a.Zone() != "") {
				return nil, fmt.Errorf("%q is not a server: it must be host:port", text)
			}
		}
		out = append(out, x)
	}
	return out, nil
}

// is tells whether the URI names the server already.
func (u uri) is(s server) bool {
	return strings.EqualFold(u.host, s.host) && (s.port == "" || u.port == s.port)
}

// at is the URI as it shall be, at a server.
func (s Settings) at(u uri, at server) uri {
	u.host = at.host
	if at.port != "" {
		u.port = at.port
	}
	if s.Scheme != "" {
		u.scheme = s.Scheme
	}
	switch {
	case s.Password != "":
		u.userinfo = escape(s.User) + ":" + escape(s.Password) + "@"
	case s.User != "":
		u.userinfo = escape(s.User) + "@"
	}
	u.text = u.String()
	return u
}

// escape leaves only what needs no quoting, neither in a URI nor in YAML.
func escape(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || strings.IndexByte("-._~", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// assign says what each value of a form shall hold. A value of several URIs
// takes all servers. One with a single URI takes one server: the same as
// before, if it is among them, so that a changed list moves as little as it can;
// else one that no other value of the form has, as long as there are such.
func (s Settings) assign(form []*value, servers []server) {
	used := make([]bool, len(servers))
	var open []*value
	for _, v := range form {
		if len(v.uris) > 1 {
			v.want = nil
			for i := range servers {
				v.want = append(v.want, s.at(v.uris[min(i, len(v.uris)-1)], servers[s.nth(i, len(servers))]))
			}
			continue
		}
		found := false
		for i, x := range servers {
			if !used[i] && v.uris[0].is(x) {
				used[i], found = true, true
				v.want = []uri{s.at(v.uris[0], x)}
				break
			}
		}
		if !found {
			open = append(open, v)
		}
	}
	next := 0
	for _, v := range open {
		for next < len(servers) && used[s.nth(next, len(servers))] {
			next++
		}
		x := servers[s.nth(next, len(servers))]
		if next < len(servers) {
			used[s.nth(next, len(servers))] = true
		} else { // more values than servers
			for _, known := range servers {
				if v.uris[0].is(known) {
					x = known
				}
			}
			next++
		}
		v.want = []uri{s.at(v.uris[0], x)}
	}
}

// nth is the i-th server, counted round from the choice.
func (s Settings) nth(i, n int) int { return ((s.Choice+i)%n + n) % n }
