package agent

import (
	"testing"
	"time"
)

// An agent of a slow machine takes long to answer and is not ended for it.
func TestPatienceGrowsWithTheTimeThereIs(t *testing.T) {
	if got := patienceOf(InstallTime); got != (patience{askLimit, rivalLimit, hungLimit}) {
		t.Errorf("usually: %+v", got)
	}
	slow := patienceOf(InstallTime + 8*time.Minute)
	if slow.hung < time.Minute || slow.answer < 20*time.Second || slow.rival < 20*time.Second {
		t.Errorf("on a slow machine: %+v", slow)
	}
	if slow.hung+slow.rival+slow.answer > InstallTime+8*time.Minute {
		t.Errorf("its limits together are longer than it may take: %+v", slow)
	}
}
