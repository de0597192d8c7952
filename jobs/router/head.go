package router

import (
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// appendHead appends the head of a request without a body as a backend gets it,
// but for the backend's key and the empty line. It is what http.Request.Write
// makes of the request that relay sends otherwise; a test holds the two against
// each other. ok is false for a request that it leaves to the latter.
//
// The server has seen to it that names are tokens and values have no line ends.
func appendHead(b []byte, x *exchange, in *http.Request) (head []byte, ok bool) {
	if !plainHost(in.Host) {
		return b, false
	}
	b = append(b, in.Method...)
	b = append(b, ' ')
	b = append(b, in.URL.RequestURI()...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, in.Host...)
	b = append(b, "\r\n"...)
	connection := in.Header["Connection"]
	var named [32]string
	names := named[:0]
	for name := range in.Header {
		names = append(names, name)
	}
	slices.Sort(names) // the order of a map is another each time
	for _, name := range names {
		values := in.Header[name]
		switch {
		case hopByHop(name) || fronts(name) || httpguts.HeaderValuesContainsToken(connection, name):
			continue
		case name == "Content-Length" || name == "Host":
			continue
		case name == "User-Agent":
			if values[0] == "" {
				continue
			}
			values = values[:1]
		}
		for _, value := range values {
			b = appendField(b, name, value)
		}
	}
	if te := in.Header["Te"]; te != nil && httpguts.HeaderValuesContainsToken(te, "trailers") {
		b = appendField(b, "Te", "trailers")
	}
	switch in.Method {
	case http.MethodPost, http.MethodPut, http.MethodPatch:
		b = appendField(b, "Content-Length", "0")
	}
	var room [forwardedFields]field
	for _, f := range forwarding(x, in, room[:0]) {
		if f.values == nil {
			b = appendField(b, f.name, f.value)
			continue
		}
		for _, value := range f.values {
			b = appendField(b, f.name, value)
		}
	}
	return b, true
}

func appendField(b []byte, name, value string) []byte {
	b = append(b, name...)
	b = append(b, ": "...)
	b = append(b, value...)
	return append(b, "\r\n"...)
}

// plainHost reports whether a Host header is sent as it is.
func plainHost(host string) bool {
	for i := range len(host) {
		switch c := host[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '-', c == ':', c == '_':
		default:
			return false
		}
	}
	return host != ""
}

// hopByHop reports whether a header concerns one connection only (RFC 9110, 7.6.1).
func hopByHop(name string) bool {
	switch name {
	case "Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
		"Te", "Trailer", "Transfer-Encoding", "Upgrade":
		return true
	}
	return false
}

// removeHopByHop removes these, and those that Connection names.
func removeHopByHop(header http.Header) {
	for _, value := range header["Connection"] {
		for name := range strings.SplitSeq(value, ",") {
			if name = strings.TrimSpace(name); name != "" {
				header.Del(name)
			}
		}
	}
	for name := range header {
		if hopByHop(name) {
			delete(header, name)
		}
	}
}
