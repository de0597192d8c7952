package router

import (
	"crypto/subtle"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"github.com/clusterworks/deploy/jobs/wire"
)

// Headers that say for whom a request is made. From anyone but a trusted front
// they are replaced.
const (
	forwardedFor   = "X-Forwarded-For"
	forwardedHost  = "X-Forwarded-Host"
	forwardedPort  = "X-Forwarded-Port"
	forwardedProto = "X-Forwarded-Proto"
	forwarded      = "Forwarded"
	realIP         = "X-Real-Ip"
	clientCert     = "X-Forwarded-Client-Cert"
	requestID      = "X-Request-Id"
	vcapRequestID  = "X-Vcap-Request-Id"
	hopsHeader     = "X-Vcap-Router-Hops"
)

// fromFronts reports whether a header is one of these, or one that only the router
// sets.
func fromFronts(name string) bool {
	switch name {
	case forwardedFor, forwardedHost, forwardedPort, forwardedProto, forwarded,
		realIP, clientCert, requestID, vcapRequestID, hopsHeader, "Proxy", wire.HeaderFrontKey, wire.HeaderApp:
		return true
	}
	return false
}

// admit returns the status and the text with which a request is refused, for
// what it is and not for where it goes; 0 if it is not.
func admit(req *http.Request) (status int, text string) {
	switch req.Method {
	case http.MethodConnect, http.MethodTrace:
		return http.StatusMethodNotAllowed, "VCAP ROUTER: 405 - THE ROUTER KNOWS NO " + req.Method
	}
	// What is opaque, as in "GET a:../b", would go on without its scheme, and climb.
	if req.Method != http.MethodGet && strings.Trim(req.Method, methodLetters) != "" || req.RequestURI == "*" || req.URL.Opaque != "" {
		return http.StatusBadRequest, "VCAP ROUTER: 400 - THE REQUEST LINE IS NOT ONE FOR APPS"
	}
	if strings.ContainsRune(req.URL.Path, 0) || climbs(req.URL.Path) {
		return http.StatusBadRequest, "VCAP ROUTER: 400 - THE PATH HAS A NUL OR LEADS OUT OF THE ROOT"
	}
	if len(req.Method)+len(req.RequestURI)+len("  HTTP/1.1\r\n") > maxLine {
		return http.StatusRequestURITooLong, fmt.Sprintf("VCAP ROUTER: 414 - THE REQUEST LINE IS LARGER THAN %d KB", maxLine>>10)
	}
	lines, total := 1, len("Host: \r\n")+len(req.Host)
	for name, values := range req.Header {
		if fromFronts(name) {
			continue // a front may add some to what it let pass
		}
		for _, value := range values {
			size := len(name) + len(value) + len(": \r\n")
			if size > maxLine {
				return http.StatusRequestHeaderFieldsTooLarge, fmt.Sprintf("VCAP ROUTER: 431 - A HEADER IS LARGER THAN %d KB", maxLine>>10)
			}
			lines, total = lines+1, total+size
		}
	}
	if lines > maxLines || total > maxHead {
		return http.StatusRequestHeaderFieldsTooLarge, fmt.Sprintf("VCAP ROUTER: 431 - MORE THAN %d HEADERS, OR OF MORE THAN %d KB TOGETHER", maxLines, maxHead>>10)
	}
	if hops := req.Header.Get(hopsHeader); hops != "" && atoi(hops) >= maxHops {
		return http.StatusLoopDetected, "VCAP ROUTER: 508 - THE REQUEST CAME BACK TO THE ROUTERS AGAIN AND AGAIN"
	}
	return 0, ""
}

// atoi returns 0 for what is no number.
func atoi(s string) int {
	n, _ := strconv.Atoi(s)
	return n
}

const methodLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ_-"

// climbs reports whether a path leads out of the root by its "..".
func climbs(path string) bool {
	if !strings.Contains(path, "/..") {
		return false
	}
	depth := 0
	for _, segment := range strings.Split(path, "/") {
		switch segment {
		case "", ".":
		case "..":
			if depth--; depth < 0 {
				return true
			}
		default:
			depth++
		}
	}
	return false
}

// trusts reports whether a request comes from a front, whose word is believed: it
// shows the key, or comes from a trusted network.
func (c *Config) trusts(req *http.Request) bool {
	if c.FrontKey != "" && subtle.ConstantTimeCompare([]byte(req.Header.Get(wire.HeaderFrontKey)), []byte(c.FrontKey)) == 1 {
		return true
	}
	peer, err := netip.ParseAddr(peerOf(req))
	if err != nil {
		return false
	}
	for _, front := range c.fronts {
		if front.Contains(peer.Unmap()) {
			return true
		}
	}
	return false
}

// identify returns the request's id: that of a trusted front, else a new one.
func identify(req *http.Request, trusted bool) string {
	if id := req.Header.Get(requestID); trusted && id != "" && len(id) <= 128 && strings.Trim(id, idLetters) == "" {
		return id
	}
	var b [32]byte
	for i := 0; i < len(b); i += 16 {
		n := rand.Uint64()
		for j := range 16 {
			b[i+j] = "0123456789abcdef"[n&15]
			n >>= 4
		}
	}
	return string(b[:])
}

const idLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.:=/+"

// field is a header: one value, or more in several lines.
type field struct {
	name, value string
	values      []string // nil: just value
}

// forward sets the headers that a backend gets beside the client's own.
func forward(x *exchange, in *http.Request, out http.Header) {
	for name := range out {
		if fronts(name) {
			delete(out, name)
		}
	}
	var room [forwardedFields]field
	for _, f := range forwarding(x, in, room[:0]) {
		if f.values == nil {
			f.values = []string{f.value}
		}
		out[f.name] = f.values
	}
}

// fronts reports whether only a front, or the router itself, may set a header.
func fronts(name string) bool {
	if fromFronts(name) {
		return true
	}
	// X_Forwarded_For is X-Forwarded-For to whatever follows CGI.
	return strings.Contains(name, "_") && fromFronts(http.CanonicalHeaderKey(strings.ReplaceAll(name, "_", "-")))
}

// forwardedFields is the number of headers that forwarding appends at most.
const forwardedFields = 10

// forwarding appends the headers that say for whom a request is made, and by which
// way it came: those of a trusted front, and what the router knows. It sets x.secure.
func forwarding(x *exchange, in *http.Request, to []field) []field {
	front := func(name string) []string {
		if x.trusted {
			return in.Header[name]
		}
		return nil
	}
	// Those in front know better what the client asked for.
	or := func(name, value string) string {
		f := field{name: name, value: value}
		if values := front(name); len(values) > 0 && values[0] != "" {
			f.value, f.values = values[0], values
		}
		to = append(to, f)
		return f.value
	}
	hops, peer := front(forwardedFor), peerOf(in)
	switch {
	case peer != "" && len(hops) > 0:
		to = append(to, field{name: forwardedFor, value: strings.Join(hops, ", ") + ", " + peer})
	case peer != "":
		to = append(to, field{name: forwardedFor, value: peer})
	case hops != nil:
		to = append(to, field{name: forwardedFor, values: hops})
	}
	proto := "http"
	if in.TLS != nil {
		proto = "https"
	}
	proto = schemeOf(or(forwardedProto, proto))
	x.secure = proto == "https"
	host := or(forwardedHost, in.Host)
	or(forwardedPort, portOf(host, proto))
	or(realIP, x.client)
	for _, name := range [...]string{forwarded, clientCert} {
		if values := front(name); values != nil {
			to = append(to, field{name: name, values: values})
		}
	}
	passed := 0
	if hops := in.Header.Get(hopsHeader); hops != "" {
		passed = max(atoi(hops), 0)
	}
	return append(to, field{name: requestID, value: x.id}, field{name: vcapRequestID, value: x.id},
		field{name: hopsHeader, value: strconv.Itoa(passed + 1)})
}

// schemeOf returns "https" or "http" for an X-Forwarded-Proto, in which several fronts
// may each have said one: the first has seen the client.
func schemeOf(proto string) string {
	first, _, _ := strings.Cut(proto, ",")
	switch first = strings.TrimSpace(first); {
	case strings.EqualFold(first, "https"), strings.EqualFold(first, "wss"):
		return "https"
	}
	return "http"
}

// portOf returns the port that a client used, by the host that it asked for.
func portOf(host, proto string) string {
	if !strings.Contains(host, ":") {
		// The usual; an error of SplitHostPort costs more.
	} else if _, port, err := net.SplitHostPort(host); err == nil && port != "" && strings.Trim(port, "0123456789") == "" {
		return port
	}
	if proto == "https" {
		return "443"
	}
	return "80"
}

// client returns who asks: the address that a trusted front saw, or the peer's own.
func client(req *http.Request, trusted bool) string {
	if trusted {
		if address := req.Header.Get(realIP); address != "" {
			return address
		}
		hops := strings.Split(strings.Join(req.Header.Values(forwardedFor), ","), ",")
		if last := strings.TrimSpace(hops[len(hops)-1]); last != "" {
			return last
		}
	}
	if peer := peerOf(req); peer != "" {
		return peer
	}
	return req.RemoteAddr
}

// peerOf returns the address of whoever sent a request, without its port, as
// net/http has it: 127.0.0.1:80 or [::1]:80. "" if it is none.
func peerOf(req *http.Request) string {
	colon := strings.LastIndexByte(req.RemoteAddr, ':')
	if colon <= 0 {
		return ""
	}
	host := req.RemoteAddr[:colon]
	if inner, ok := strings.CutPrefix(host, "["); ok {
		host = strings.TrimSuffix(inner, "]")
	}
	return host
}
