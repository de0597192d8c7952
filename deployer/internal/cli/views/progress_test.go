package views

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/clusterworks/deploy/deployer"
)

var events = []deployer.Event{
	{Phase: deployer.PhaseVMs, Message: "8 VMs"},
	{Phase: deployer.PhaseBootstrap, Instance: "router/0", Step: "bootstrap", Message: "uploading the agent"},
	{Phase: deployer.PhaseBootstrap, Instance: "router/0", Step: "bootstrap", Done: true},
	{Phase: deployer.PhaseRollout, Instance: "router/0", Step: "update"},
	{Phase: deployer.PhaseRollout, Instance: "router/0", Step: "update", Error: "router exited with status 3"},
}

func TestPlainProgressKeepsWhatHasEnded(t *testing.T) {
	var b bytes.Buffer
	p := NewPlainProgress(&b)
	for _, e := range events {
		p.Event(e)
	}
	p.Close()
	p.Event(events[0])
	var got []string
	for _, l := range strings.Split(strings.TrimSpace(b.String()), "\n") {
		_, text, _ := strings.Cut(strings.TrimSpace(l), "s  ")
		got = append(got, strings.Join(strings.Fields(text), " "))
	}
	want := []string{"vms 8 VMs", "router/0 agent ready", "router/0 update failed: router exited with status 3"}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestJSONProgressIsALineAnEvent(t *testing.T) {
	var b bytes.Buffer
	p := NewJSONProgress(&b)
	for _, e := range events {
		p.Event(e)
	}
	dec := json.NewDecoder(&b)
	for i, want := range events {
		var got deployer.Event
		if err := dec.Decode(&got); err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("event %d: got %+v, want %+v", i, got, want)
		}
	}
}

func TestLiveProgressSaysWhatIsWaitedFor(t *testing.T) {
	var b bytes.Buffer
	p := NewLiveProgress(&b, false, func() int { return 60 })
	for _, e := range events[:4] {
		p.Event(e)
	}
	p.Close()
	out := b.String()
	if !strings.Contains(out, "rollout: router/0 update") {
		t.Errorf("the status line does not say what is being done:\n%q", out)
	}
	if !strings.HasSuffix(out, "\r\x1b[K") {
		t.Errorf("the status line is not erased at the end:\n%q", out)
	}
	for _, l := range strings.FieldsFunc(out, func(r rune) bool { return r == '\n' || r == '\r' }) {
		if n := len([]rune(strings.TrimPrefix(l, "\x1b[K"))); n > 59 {
			t.Errorf("a line of %d columns on a terminal of 60: %q", n, l)
		}
	}
}
