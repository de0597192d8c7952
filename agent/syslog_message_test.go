package agent

import (
	"bytes"
	"regexp"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/clusterworks/deploy/agent/api"
)

func TestParseSyslog(t *testing.T) {
	for server, want := range map[string]string{
		"udp://10.0.0.1:514": "udp 10.0.0.1:514", "tcp://[::1]:601": "tcp [::1]:601", "logs.example.com:514": "udp logs.example.com:514",
		"tls://10.0.0.1:6514": "", "udp://10.0.0.1": "", "udp://:514": "", "tcp://h:1/x": "", "": "", "udp://%": "",
	} {
		network, address, err := parseSyslog(server)
		if got := network + " " + address; (err != nil) != (want == "") || err == nil && got != want {
			t.Errorf("%q: got %q, %v; want %q", server, got, err, want)
		}
	}
}

// rfc5424 is the header that we send: priority, version, time, host, application,
// process, no message id, no structured data.
var rfc5424 = regexp.MustCompile(`^<30>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z [!-~]{1,255} [!-~]{1,48} (-|\d+) - - `)

// Whatever a process writes and however things are called, the message is one
// that a receiver can read, and not too long.
func TestSyslogMessage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := identity{Instance: rapid.String().Draw(t, "instance"), Deployment: rapid.String().Draw(t, "deployment")}
		p := api.ProcessStatus{Job: rapid.String().Draw(t, "job"), Name: rapid.String().Draw(t, "name"), PID: rapid.IntRange(0, 1<<22).Draw(t, "pid")}
		line := rapid.SliceOfN(rapid.Byte(), 0, 3000).Draw(t, "line")
		message := syslogMessage(id, p, time.Now(), line, syslogDatagram)
		head := rfc5424.Find(message)
		if head == nil || !utf8.Valid(message) || len(message) > syslogDatagram {
			t.Fatalf("%d bytes: %q", len(message), message)
		}
		if utf8.Valid(line) && len(head)+len(line) <= syslogDatagram && !bytes.Equal(message[len(head):], line) {
			t.Fatalf("the line %q became %q", line, message[len(head):])
		}
	})
}
