package wire

import (
	"strings"
	"testing"
)

func TestParseSession(t *testing.T) {
	for text, want := range map[string]string{
		`{"command":["ls","-l"],"tty":true,"rows":24,"cols":80,"term":"xterm-256color"}`: "",
		`{}`:                       "",
		`{"command":["a\u0000b"]}`: "NUL",
		`{"command":["", "x"]}`:    "no name",
		`{"rows":100000}`:          "window",
		`{"command":"ls"}`:         "cannot",
		`{"command":["` + strings.Repeat("x", maxSessionBytes) + `"]}`:       "longer",
		`{"command":[` + strings.Repeat(`"x",`, maxSessionWords+1) + `"x"]}`: "longer",
	} {
		_, err := ParseSessionStart([]byte(text))
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: %v, want %q", text, err, want)
		}
	}
	if s, err := ParseSessionStart([]byte(`{"term":"a=b\nc"}`)); err != nil || s.Term != "dumb" {
		t.Errorf("a terminal of another name: %+v, %v", s, err)
	}
	for text, good := range map[string]bool{`{"signal":"INT"}`: true, `{"signal":"STOP"}`: false, `{"signal":"INT\nKILL"}`: false, `{"rows":-1}`: false, `{"eof":true}`: true, `[]`: false} {
		if _, err := ParseSessionControl([]byte(text)); (err == nil) != good {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// FuzzSession: no bytes of a client may panic, and what is accepted is within bounds.
func FuzzSession(f *testing.F) {
	f.Add([]byte(`{"command":["ls"],"tty":true,"rows":24,"cols":80,"term":"xterm"}`))
	f.Add([]byte(`{"signal":"INT","rows":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if s, err := ParseSessionStart(data); err == nil && (len(s.Command) > maxSessionWords || strings.ContainsAny(s.Term, "=\n\x00") || s.Rows > maxWindow) {
			t.Errorf("accepted: %+v", s)
		}
		if c, err := ParseSessionControl(data); err == nil && (strings.ContainsAny(c.Signal, "\n ") || c.Cols > maxWindow) {
			t.Errorf("accepted: %+v", c)
		}
		_, _ = ParseSessionEnd(data)
	})
}
