package views

import (
	"bytes"
	"testing"
	"time"

	"github.com/clusterworks/deploy/deployer"
	"github.com/clusterworks/deploy/deployer/internal/domains"
)

func TestDomains(t *testing.T) {
	rate := 12.34
	good := []domains.Answer{{Instance: "lb/0", Status: 200}, {Instance: "lb/1", Status: 404}}
	report := &deployer.DomainReport{Deployment: "cf", Addresses: []string{"192.0.2.1"}, Domains: []domains.Status{
		{Name: "*.cf.localhost", Target: "apps", DNS: domains.DNS{Asked: "deploy-check.cf.localhost"}, Answers: good},
		{Name: "www.shop.example", Target: "group shop, port 80", Paths: []string{"/old: redirect to https://old.example"},
			Certificate: &domains.Certificate{From: "files", Issuer: "R\x1b[2J11", Ends: time.Unix(0, 0), Days: 12},
			DNS:         domains.DNS{Asked: "www.shop.example", Want: []string{"192.0.2.1"}, Found: []string{"192.0.2.1"}}, Answers: good, RequestsPerSecond: &rate},
	}}
	var b bytes.Buffer
	Domains(&b, report, false)
	golden(t, "domains.txt", b.Bytes())

	report.Domains[1].DNS.Found = []string{"198.51.100.7"}
	report.Domains[1].Answers = []domains.Answer{{Instance: "lb/0", Problem: "it shows another certificate"}, {Instance: "lb/1", Status: 200}}
	report.Domains[0].DNS = domains.DNS{Asked: "deploy-check.cf.example", Error: "there is no such name"}
	for i := range report.Domains {
		report.Domains[i].Conclude()
	}
	b.Reset()
	Domains(&b, report, false)
	golden(t, "domains-wrong.txt", b.Bytes())
	if report.Healthy() {
		t.Error("all is well")
	}
}
