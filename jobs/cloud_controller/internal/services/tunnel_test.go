package services

import (
	"encoding/json"
	"net"
	"strconv"
	"testing"
)

func TestTunnelTarget(t *testing.T) {
	t.Parallel()
	for credentials, want := range map[string]string{
		`{"host":"10.0.0.5","port":6379,"password":"p"}`:  "10.0.0.5:6379",
		`{"hostname":"db.example.com","port":5432}`:       "db.example.com:5432",
		`{"host":"::1","port":1}`:                         "[::1]:1",
		`{"host":"h"}`:                                    "",
		`{"port":1}`:                                      "",
		`{"host":"h","port":"6379"}`:                      "",
		`{"host":"h","port":65536}`:                       "",
		`{"host":"h","port":-1}`:                          "",
		`{"host":["h"],"port":1}`:                         "",
		`{"url":"https://elsewhere.example.com","key":1}`: "",
		`[]`: "", `null`: "", ``: "", `{`: "",
	} {
		got, err := tunnelTarget(json.RawMessage(credentials))
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v, want %q", credentials, got, err, want)
		}
	}
}

// TestNoTunnelToNeighbours: no broker leads users to the metadata of the controllers'
// cloud, not even by another form of the address.
func TestNoTunnelToNeighbours(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]bool{
		"169.254.169.254": false, "::ffff:169.254.169.254": false, "fe80::1%lo": false, "fd00:ec2::254": false, "168.63.129.16": false, "0.0.0.0": false,
		"10.0.0.5": true, "127.40.0.9": true, "2001:db8::5": true,
	} {
		if err := noNeighbour("tcp", net.JoinHostPort(host, "80"), nil); (err == nil) != want {
			t.Errorf("%s: %v", host, err)
		}
	}
}

// FuzzTunnelTarget: whatever a gateway gives, what is dialled is one host and one port.
func FuzzTunnelTarget(f *testing.F) {
	f.Add([]byte(`{"host":"10.0.0.5","port":6379}`))
	f.Add([]byte(`{"host":"a:b","port":1e3}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		target, err := tunnelTarget(data)
		if err != nil {
			return
		}
		host, port, err := net.SplitHostPort(target)
		if n, err2 := strconv.Atoi(port); err == nil && (host == "" || err2 != nil || n < 1 || n > 65535) {
			t.Errorf("%s: %q", data, target)
		}
	})
}
