<?xml version="1.0" ?>
<!-- What the provider cannot say of a domain. -->
<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform">
  <xsl:output omit-xml-declaration="yes" indent="yes"/>
  <xsl:template match="node()|@*">
    <xsl:copy><xsl:apply-templates select="node()|@*"/></xsl:copy>
  </xsl:template>
  <!-- The console is kept: it says why a boot failed. -->
  <xsl:template match="devices/console">
    <serial type="pty"><log file="${console}" append="on"/><target port="0"/></serial>
    <console type="pty"><target type="serial" port="0"/></console>
  </xsl:template>
  <xsl:template match="devices/graphics|devices/video|devices/memballoon"/>
  <xsl:template match="devices">
    <xsl:copy>
      <xsl:apply-templates select="node()|@*"/>
      <video><model type="none"/></video>
      <memballoon model="none"/>
    </xsl:copy>
  </xsl:template>
%{ if tcg != "" ~}
  <!-- Emulated: translations get 64 MiB, not a gigabyte. -->
  <xsl:template match="features">
    <xsl:copy>
      <xsl:apply-templates select="node()|@*"/>
      <tcg><tb-cache unit="MiB">64</tb-cache></tcg>
    </xsl:copy>
  </xsl:template>
%{ endif ~}
</xsl:stylesheet>
