//go:build e2e

package examples

import (
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

// All figures come by the command, each VM's own by HTTP and its logs by syslog
// where the manifest says so; changing that touches no process.
func TestMetrics(t *testing.T) {
	t.Parallel()
	c := shellCluster(t, 2, "echo hello syslog; exec sleep 1000")
	c.mustApply()
	before := c.mustAllRun(2).pids()
	out, code := c.run("metrics")
	mustTell(t, out, code, 0, `deploy_agent_up{deploy_instance="app/1"} 1`, `deploy_process_up{deploy_instance="app/0",deploy_job="script",process="main"} 1`)
	address := c.status().Instances[0].Address
	get := func() (string, error) {
		client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
		response, err := client.Get("http://" + address + ":9100/metrics")
		if err != nil {
			return "", err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		return string(body), err
	}
	if _, err := get(); err == nil {
		t.Error("metrics are served although nobody asked for it")
	}

	logs, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	c.edit(`deployment "scripts" { domain = "scripts.localhost" }`,
		"deployment \"scripts\" {\n  metrics { port = 9100 }\n  logging { syslog = \"udp://"+logs.LocalAddr().String()+"\" }\n}")
	c.mustApply()
	packet := make([]byte, 64<<10)
	if err := logs.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n, _, err := logs.ReadFrom(packet)
	if got := string(packet[:n]); err != nil || !strings.HasPrefix(got, "<30>1 ") || !strings.Contains(got, ".scripts script/main ") || !strings.HasSuffix(got, " - - hello syslog") {
		t.Errorf("syslog got %q, %v", got, err)
	}
	if text, err := get(); err != nil || !strings.Contains(text, `deploy_instance_state{state="running"} 1`) {
		t.Errorf("got %v\n%s", err, text)
	}
	out, code = c.run("plan")
	mustTell(t, out, code, 0, "nothing to do")
	if after := c.mustAllRun(2).pids(); after["app/0 main"] != before["app/0 main"] || after["app/1 main"] != before["app/1 main"] {
		t.Errorf("processes %v, before %v", after, before)
	}

	agent := agentOf(t, c, "app-1")
	if err := syscall.Kill(agent, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	out, code = c.run("metrics")
	if err := syscall.Kill(agent, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	mustTell(t, out, code, 0, `deploy_agent_up{deploy_instance="app/0"} 1`, `deploy_agent_up{deploy_instance="app/1"} 0`)
}
