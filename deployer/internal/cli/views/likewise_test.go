package views

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/clusterworks/deploy/deployer"
	"github.com/clusterworks/deploy/deployer/internal/plan"
)

// What is alike at several instances is told once, with their names, in every view.
func TestWhatIsAlikeIsToldOnce(t *testing.T) {
	ids := []string{"web/0", "web/1", "web/2", "web/3", "web/4", "db/0"}
	reason := func(id string) string {
		if id == "web/1" {
			return "web/web exited with status 8"
		}
		return strings.Split(id, "/")[0] + "/main exited with status 7"
	}
	var errs []error
	p := &plan.Plan{Deployment: "cf"}
	d := &deployer.Diagnosis{}
	s := &deployer.Status{}
	for _, id := range ids {
		errs = append(errs, fmt.Errorf("cannot restart %s: %s", id, reason(id)))
		p.Failing = append(p.Failing, plan.Failing{Instance: id, Reasons: []string{reason(id)}})
		p.Instances = append(p.Instances, plan.InstanceChange{Instance: id, Action: plan.None})
		d.Findings = append(d.Findings,
			deployer.Finding{Level: deployer.LevelFail, Check: "agent " + id, Message: "it is failing: " + reason(id), Fix: "deploy logs MANIFEST " + id},
			deployer.Finding{Level: deployer.LevelOK, Check: "clock of " + id, Message: "it is right"})
		s.Instances = append(s.Instances, deployer.InstanceStatus{ID: id, State: "failing", Reasons: []string{reason(id)}})
	}
	errs = append(errs, errors.New("web/0 ran before this change:\n    -a"), errors.New("web/2 ran before this change:\n    -a"), errors.New("see deploy logs m.hcl web/0"))
	for name, c := range map[string]struct {
		print func(*bytes.Buffer)
		want  string
	}{
		"error": {func(b *bytes.Buffer) { Error(b, errors.Join(errs...), false, 78) }, `Error: cannot restart web/0: web/main exited with status 7 (likewise web/2, web/3, web/4)
cannot restart web/1: web/web exited with status 8
cannot restart db/0: db/main exited with status 7
web/0 ran before this change:
    -a
web/2 ran before this change:
    -a
see deploy logs m.hcl web/0
`},
		"plan": {func(b *bytes.Buffer) { Plan(b, p, false) }, `cf: nothing to change, but 6 of 6 instances do not do what they should:
  ! web/0 is failing: web/main exited with status 7 (likewise web/2, web/3, web/4)
  ! web/1 is failing: web/web exited with status 8
  ! db/0 is failing: db/main exited with status 7
`},
		"doctor": {func(b *bytes.Buffer) { Diagnosis(b, d, false) }, `fail  agent web/0: it is failing: web/main exited with status 7 (likewise web/2, web/3, web/4)
      -> deploy logs MANIFEST web/0
ok    clock of web/0: it is right
fail  agent web/1: it is failing: web/web exited with status 8
      -> deploy logs MANIFEST web/1
ok    clock of web/1: it is right
ok    clock of web/2: it is right
ok    clock of web/3: it is right
ok    clock of web/4: it is right
fail  agent db/0: it is failing: db/main exited with status 7
      -> deploy logs MANIFEST db/0
ok    clock of db/0: it is right

6 ok, 0 warnings, 6 failures
`},
		"status": {func(b *bytes.Buffer) { Status(b, s, false, 80) }, `! web/0: web/main exited with status 7 (likewise web/2, web/3, web/4)
! web/1: web/web exited with status 8
! db/0: db/main exited with status 7
`},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			c.print(&b)
			if !strings.HasSuffix(b.String(), c.want) {
				t.Errorf("got\n%s\nwant\n%s", b.String(), c.want)
			}
		})
	}
}
