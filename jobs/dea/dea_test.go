package dea

import (
	"strings"
	"testing"

	"deploy/jobs/wire"
)

func TestAppRuns(t *testing.T) {
	a := newCell(t).start("")
	doc := a.document("7", a.droplet(), "GREETING=hi", "SECOND=$GREETING there", "THIRD='$GREETING'")
	found := a.launch(doc)
	if got := get(t, found, "/"); !strings.Contains(got, found.Instance) {
		t.Errorf("it says %q", got)
	}
	t.Log(get(t, found, "/env"))
	a.publish(wire.SubjectDEAStop, wire.DEAStop{Droplet: "7"})
	eventually(t, "it is gone", func() bool { return len(a.find("7", false)) == 0 })
}
