package jobs_test

import (
	"io/fs"
	"path"
	"regexp"
	"strings"
	"testing"

	"github.com/clusterworks/deploy/jobs"
)

// TestMovableServices: each service node that has a folder through which its instances
// move asks the gateway before it is removed, and may; its gateway hears that, and has
// the errand that moves one.
func TestMovableServices(t *testing.T) {
	t.Parallel()
	files, err := fs.Glob(jobs.FS, "*_node/job.hcl")
	if err != nil {
		t.Fatal(err)
	}
	publishes := regexp.MustCompile(`publish +=.*aaS\.leave\.\*"`)
	hears := regexp.MustCompile(`subscribe +=.*aaS\.leave\.\*"`)
	movable := 0
	for _, file := range files {
		node := read(t, file)
		if !strings.Contains(node, `"component/node/lifecycle"`) {
			continue
		}
		movable++
		gateway := read(t, strings.TrimSuffix(path.Dir(file), "_node")+"_gateway/job.hcl")
		for what, is := range map[string]bool{
			"the hook that leaves":              strings.Contains(node, `"leave", "-c"`),
			"the right to ask":                  publishes.MatchString(node),
			"the right to hear, of the gateway": hears.MatchString(gateway),
			"the errand migrate of the gateway": strings.Contains(gateway, `"component/moves"`),
		} {
			if !is {
				t.Errorf("%s lacks %s", path.Dir(file), what)
			}
		}
	}
	if movable < 3 {
		t.Errorf("%d services move, want mysql, postgresql and redis at least", movable)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	data, err := fs.ReadFile(jobs.FS, file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
