package agent_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/clusterworks/deploy/agent/api"
)

// A job says what lives on its instance; what cannot say it is an answer of its own
// and never "nothing".
func TestCensus(t *testing.T) {
	overBoth(t, func(f *fixture) {
		_, err := f.c.Census(f.context())
		f.refused(err, api.CodeConflict, "nothing is installed")
		ask := func(generation, command string) api.JobCensus {
			f.Helper()
			f.apply(specOf(generation, withErrands(script(api.HookCensus, "", command))))
			in, err := f.c.Inventory(f.context())
			f.must(err)
			if !slices.Equal(in.Census, []string{"app"}) {
				f.Errorf("the inventory names %q", in.Census)
			}
			report, err := f.c.Census(f.context())
			f.must(err)
			if len(report.Jobs) != 1 || report.Jobs[0].Job != "app" {
				f.Fatalf("got %+v", report)
			}
			return report.Jobs[0]
		}
		got := ask("g1", `echo aside >&2; echo '{"kind":"database","name":"d1","owner":"ann","apps":["shop"],"new":1}'; echo '{"total":3}'`)
		want := api.JobCensus{Job: "app", Total: 3, Things: []api.Thing{{Kind: "database", Name: "d1", Owner: "ann", Apps: []string{"shop"}}}}
		if !reflect.DeepEqual(got, want) {
			f.Errorf("got %+v, want %+v", got, want)
		}
		if got := ask("g2", `echo '{"total":0}'`); got.Total != 0 || got.Error != "" {
			f.Errorf("nothing lives there: %+v", got)
		}
		for n, c := range []struct{ command, want string }{
			{`true`, "does not end with a line"},
			{`echo '{"kind":"database","name":"d1"}'`, "does not end with a line"},
			{`echo '{"kind":"database"}'; echo '{"total":1}'`, "line 1 of its census is no thing"},
			{`echo '{"kind":"a","name":"b"}'; echo '{"total":0}'`, "names 1 things and counts 0"},
			{`echo '{"total":0}'; echo no server >&2; exit 3`, "its census failed"},
			{`head -c 3000000 /dev/zero; echo; echo '{"total":0}'`, "says more than"},
		} {
			if got := ask(fmt.Sprintf("bad%d", n), c.command); !strings.Contains(got.Error, c.want) || got.Total != 0 {
				f.Errorf("%s: got %+v, want %q", c.command, got, c.want)
			}
		}
		hook := script(api.HookCensus, "", `sleep 1000`)
		hook.TimeoutMS = 200
		f.apply(specOf("slow", withErrands(hook)))
		report, err := f.c.Census(f.context())
		f.must(err)
		if len(report.Jobs) != 1 || !strings.Contains(report.Jobs[0].Error, "did not end within") {
			f.Errorf("got %+v", report)
		}
		f.apply(specOf("none", withErrands()))
		if report, err := f.c.Census(f.context()); err != nil || len(report.Jobs) != 0 {
			f.Errorf("a job without the hook answered: %+v, %v", report, err)
		}
		if in, err := f.c.Inventory(f.context()); err != nil || len(in.Census) != 0 {
			f.Errorf("the inventory names %q: %v", in.Census, err)
		}
	})
}
